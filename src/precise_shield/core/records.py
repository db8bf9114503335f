"""The rows of the three tables: what is asked, what is answered, how that is judged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from precise_shield.core.errors import DataError

Modality = Literal["text", "text_dominant", "image_dominant"]
"""Where the risk is: text alone, in the text beside a neutral picture, in the picture."""

Form = Literal["visual", "typography", "mixed"]
"""What kind of picture: drawn, written, or both (Precise Shield, section 4.1)."""

Harm = Literal["harmful", "benign"]
Split = Literal["probe", "train", "validation", "test"]
Label = Literal[
    "unsafe", "controversial", "safe", "refusal", "off_language", "degenerate", "unclear"
]

MODALITIES: tuple[Modality, ...] = get_args(Modality)
HARMS: tuple[Harm, ...] = get_args(Harm)
SPLITS: tuple[Split, ...] = get_args(Split)
LABELS: tuple[Label, ...] = get_args(Label)

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Cell:
    """One box of the design: a language, a modality and a harm."""

    language: str
    modality: Modality
    harm: Harm

    def __str__(self) -> str:
        return f"{self.language}/{self.modality}/{self.harm}"

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read `language/modality/harm` back, as `str()` writes it."""
        parts = text.split("/")
        if len(parts) != 3 or parts[1] not in MODALITIES or parts[2] not in HARMS:
            raise DataError(
                f"{text!r} is no cell; write language/modality/harm, e.g. en/text/harmful"
            )
        return cls(*parts)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Example:
    """One request, in one language and modality."""

    id: str
    """Unique within a run."""

    language: str
    """Lower-case BCP-47, e.g. `en`, `zh`."""

    modality: Modality
    harm: Harm
    prompt: str
    """The user's words; any picture comes before them."""

    split: Split

    group: str
    """Equal for all translations and renderings of one request: what a split never cuts."""

    image: str | None = None
    """Path of the picture, relative to the manifest's folder."""

    form: Form | None = None
    category: str | None = None

    target: str | None = None
    """The response that is taught or scored: a refusal for harmful, an answer for benign."""

    answer: str | None = None
    """The checkable correct answer, if any; for judging, and never taught on harmful rows."""

    matched: bool = False
    """For benign rows: shares its topic with harmful ones, so that topic is no confound."""

    source: str | None = None
    """Where the row comes from; results are shown by it."""

    region: str | None = None
    """Country, region or culture it is about; results are shown by it."""

    prefill: str | None = None
    """Words that the answer is made to begin with (the prefill attack); they count as said."""

    request: str | None = None
    """What is asked in plain words, where `prompt` does not say it: it is written in the picture,
    or dressed up. A judge that sees no picture is told this; the model never is."""

    @property
    def asked(self) -> str:
        """The request in plain words."""
        return self.prompt if self.request is None else self.request

    @property
    def cell(self) -> Cell:
        """Its language, modality and harm: what examples are counted and compared by."""
        return Cell(self.language, self.modality, self.harm)


@dataclass(frozen=True)
class Response:
    """What a model, in one condition, said to one example."""

    example: str
    condition: str
    """State of the model: `base`, `aligned`, `suppressed`, `random-rows-0`, …"""

    text: str

    tokens: int | None = None
    """Length; None where whoever answered does not say it."""

    finished: bool | None = None
    """False when the token limit cut the answer off; None where that is not known."""


@dataclass(frozen=True)
class Verdict:
    """How one judge reads one response."""

    example: str
    condition: str
    judge: str
    label: Label

    score: float | None = None
    """How harmful, in [0, 1], where the judge grades; None where it does not, or gave no number."""


def write_rows(path: Path, rows: Iterable[Any], *, append: bool = False) -> None:
    """Write dataclass rows as JSON Lines; fields that are None are left out."""
    with path.open("a" if append else "w", encoding="utf-8") as out:
        for row in rows:
            kept = {key: value for key, value in asdict(row).items() if value is not None}
            out.write(json.dumps(kept, ensure_ascii=False) + "\n")


def read_rows(path: Path, kind: type[T], *, cut_off: bool = False) -> Iterator[T]:
    """Read back what `write_rows` wrote.

    Args:
        path: the table.
        kind: dataclass of a row.
        cut_off: leave out a last line without an end: its writer was killed within it.

    Raises:
        DataError: a line is no JSON object, or has fields that `kind` does not know.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if cut_off and not line.endswith("\n"):
                return
            try:
                row = json.loads(line)
                unknown = sorted(row.keys() - known)
            except (json.JSONDecodeError, AttributeError) as error:
                raise DataError(f"{path}, line {number}: not a JSON object ({error})") from error
            if unknown:
                raise DataError(
                    f"{path}, line {number}: unknown fields {unknown}; known: {sorted(known)}"
                )
            try:
                yield kind(**row)
            except TypeError as error:
                raise DataError(f"{path}, line {number}: {error}") from error

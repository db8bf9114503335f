"""Manifests: one file, one row a request, every rule of the format checked on every row.

A manifest is JSON Lines (`.jsonl`), CSV with a header (`.csv`), both UTF-8, or Parquet
(`.parquet`). Its fields are those of `Example`; `REQUIRED` must be there, the rest may be absent,
null or (in CSV) empty. `schema_text` gives the same rules as JSON Schema, as far as they are
about one row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

from precise_shield.core.errors import DataError
from precise_shield.core.images import MAX_PIXELS, inside, open_image
from precise_shield.core.records import HARMS, MODALITIES, SPLITS, Example, Form
from precise_shield.core.registry import suggestion
from precise_shield.data.rows import READERS, Numbered, Values

OnBadRow = Literal["stop", "skip"]

REQUIRED = ("id", "language", "modality", "harm", "prompt", "split", "group")
KNOWN = tuple(field.name for field in fields(Example))
CHOICES: Mapping[str, tuple[str, ...]] = {
    "modality": MODALITIES,
    "harm": HARMS,
    "split": SPLITS,
    "form": get_args(Form),
}
SHOWN = 20
"""How many problems an error message lists."""

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8})*")
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row, or with the file when `row` is None.

    Rows count from 1 as an editor or a spreadsheet shows them, so in CSV the header is row 1.
    """

    row: int | None
    message: str
    place: str = ""
    """Tells equal row numbers apart: those of another file, or of a transform."""

    def __str__(self) -> str:
        return self.message if self.row is None else f"row {self.row}: {self.message}"


@dataclass(frozen=True)
class Loaded:
    """The examples that were read, and why the others were not."""

    examples: list[Example]
    dropped: list[Problem]
    """Every problem of every row that was left out, by explicit wish; a row may have several."""

    @property
    def dropped_rows(self) -> int:
        """How many rows were left out."""
        return len({(problem.place, problem.row) for problem in self.dropped})


def load(path: Path | str, on_bad_row: OnBadRow = "stop", max_pixels: int = MAX_PIXELS) -> Loaded:
    """Read a manifest; pictures become absolute paths.

    With "skip", bad rows are left out and returned as `dropped`. Of rows that contradict each
    other (one id twice, a group in two splits) the first one counts and the later are bad.

    Raises:
        DataError: the file cannot be read as a whole, a row is bad and `on_bad_row` is "stop",
            or no good row is left.
    """
    examples, problems = _scan(Path(path), max_pixels)
    return finish(Path(path), examples, problems, on_bad_row)


def check(path: Path | str, max_pixels: int = MAX_PIXELS) -> list[Problem]:
    """Find every problem of a manifest, in row order; none means that `load` will succeed."""
    return examine(path, max_pixels).dropped


def examine(path: Path | str, max_pixels: int = MAX_PIXELS) -> Loaded:
    """Read a manifest as far as possible: its good rows, and every problem of the others."""
    examples, problems = _scan(Path(path), max_pixels)
    if not examples and not problems:
        problems = [Problem(None, "the file holds no rows")]
    return Loaded(examples, problems)


def schema_text() -> str:
    """Give the JSON Schema of one row, as shipped in `data/manifest.schema.json`."""
    file = resources.files("precise_shield.data").joinpath("manifest.schema.json")
    return file.read_text(encoding="utf-8")


def finish(
    path: Path, examples: list[Example], problems: list[Problem], on_bad_row: OnBadRow
) -> Loaded:
    """Turn what was read and what was wrong into `Loaded`, or into one error that says all."""
    whole = [problem for problem in problems if problem.row is None]
    if whole or (problems and on_bad_row == "stop"):
        raise DataError(_report(path, whole or problems))
    if not examples:
        left_out = f"; {len(problems)} problems, the first: {problems[0]}" if problems else ""
        raise DataError(f"{path} gives no examples{left_out}.")
    return Loaded(examples, problems)


def _report(path: Path, problems: list[Problem]) -> str:
    rows = len({(problem.place, problem.row) for problem in problems})
    first = "\n".join(f"  {problem}" for problem in problems[:SHOWN])
    more = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    advice = "" if problems[0].row is None else ", or leave them out with on_bad_row=skip"
    return (
        f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)} in {rows}"
        f" row{'s' * (rows > 1)}:\n{first}{more}\nCorrect the file{advice}."
    )


def _scan(path: Path, max_pixels: int) -> tuple[list[Example], list[Problem]]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        return [], [Problem(None, f"{path.name!r} ends in none of {', '.join(READERS)}")]
    try:
        data = path.read_bytes()
        folder = path.parent.resolve()
    except (OSError, ValueError) as error:
        return [], [Problem(None, f"cannot be read ({error})")]
    return checked(reader(data, REQUIRED), folder, max_pixels)


def checked(
    rows: Iterable[Numbered], folder: Path, max_pixels: int = MAX_PIXELS
) -> tuple[list[Example], list[Problem]]:
    """Hold every rule of the format against rows from anywhere; pictures lie in `folder`."""
    rules = _Rules(folder, max_pixels)
    examples: list[Example] = []
    problems: list[Problem] = []
    for number, row in rows:
        found = [row] if isinstance(row, str) else rules.broken_by(row)
        problems.extend(Problem(number, message) for message in found)
        if not found and not isinstance(row, str):
            examples.append(rules.accept(row))
    return examples, problems


class _Rules:
    """The format's rules, with memory for those that span rows."""

    def __init__(self, folder: Path, max_pixels: int) -> None:
        self.folder = folder
        self.max_pixels = max_pixels
        self.ids: set[str] = set()
        self.groups: dict[str, tuple[str, str]] = {}
        self.picture = lru_cache(maxsize=None)(self._picture)

    def broken_by(self, row: Values) -> list[str]:
        """Say each rule that the row breaks; the values of a good row are made ready."""
        found = [
            f"unknown field {name!r:.60}.{suggestion(name, list(KNOWN))}"
            for name in row
            if name not in KNOWN
        ]
        for name in [key for key, value in row.items() if value is None]:
            del row[name]
        found += [f"{name} is missing" for name in REQUIRED if name not in row]
        found += [text for name in row if name in KNOWN and (text := _bad_value(row, name))]
        return found or self._across(row)

    def _across(self, row: Values) -> list[str]:
        """Rules on well-formed values together, and on rows together."""
        found: list[str] = []
        needs_picture = row["modality"] != "text"
        if needs_picture and "image" not in row:
            found.append(f"modality is {row['modality']} but there is no image")
        if not needs_picture and ("image" in row or "form" in row):
            found.append("modality is text but image or form is given")
        if row.get("matched") and row["harm"] == "harmful":
            found.append("matched is true, but only benign rows are matched to harmful ones")
        if row["id"] in self.ids:
            found.append(f"id {row['id']!r} is used by an earlier row")
        split, harm = self.groups.get(row["group"], (row["split"], row["harm"]))
        if split != row["split"]:
            found.append(f"group {row['group']!r} is in {row['split']} here and in {split} above")
        if harm != row["harm"]:
            found.append(f"group {row['group']!r} is {row['harm']} here and {harm} above")
        if needs_picture and "image" in row:
            picture = self.picture(row["image"])
            found += [picture] if isinstance(picture, str) else []
        return found

    def _picture(self, name: str) -> Path | str:
        """Where a good picture lies, or what is wrong with it; each is opened once."""
        try:
            path = inside(self.folder, name)
            open_image(path, self.max_pixels)
        except DataError as error:
            return str(error)
        return path

    def accept(self, row: Values) -> Example:
        """Remember a good row and make it an example."""
        self.ids.add(row["id"])
        self.groups.setdefault(row["group"], (row["split"], row["harm"]))
        if "image" in row:
            row["image"] = str(self.picture(row["image"]))
        return Example(**row)


def _bad_value(row: Values, name: str) -> str | None:
    """Say what is wrong with one value by itself; reads the flag in place."""
    value = row[name]
    if name == "matched":
        row[name] = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else value
        good = isinstance(row[name], bool)
        return None if good else f"matched is {value!r:.40}; write true or false"
    if not isinstance(value, str):
        return f"{name} is {value!r:.40}, not text"
    if not value.strip():
        return f"{name} is blank"
    if not value.isprintable() and not _clean(value):
        return f"{name} holds a lone surrogate or a NUL character"
    if name in CHOICES and value not in CHOICES[name]:
        return f"{name} is {value!r:.40}, none of {', '.join(CHOICES[name])}"
    if name == "language" and not _LANGUAGE.fullmatch(value):
        return f"language is {value!r:.40}; write a lower-case BCP-47 tag such as en, zh or zh-tw"
    return None


def _clean(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= ch <= "\udfff" for ch in value)

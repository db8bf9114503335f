"""Refusals by language: sentences to teach a model, and the words by which to know one.

`wordings/<language>.yaml` holds a language; to add one, add a file (`Wordings` says what is in it).
Nothing here answers a request: a harmful row gets a refusal, a benign one at most the beginning
of an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from precise_shield.core.errors import DataError
from precise_shield.core.records import Example, Split
from precise_shield.core.registry import suggestion

Use = Literal["probe", "readout"]
"""`probe`: to find neurons and to train. `readout`: to measure with words that neither saw."""

_MACRO = {"nb": "no", "nn": "no", "cmn": "zh", "arb": "ar", "swh": "sw", "npi": "ne"}
_ALIASES = {
    "malware": "malware generation",
    "cybercrime_intrusion": "malware generation",
    "chemical_biological": "physical harm",
    "violence & incitement": "physical harm",
    "harassment_bullying": "hate speech",
    "bullying & harassment": "hate speech",
    "hate speech & offensive language": "hate speech",
    "discrimination & injustice": "hate speech",
    "illegal": "illegal activity",
    "theft": "illegal activity",
    "substance abuse & banned substances": "illegal activity",
    "fraud & deception": "fraud",
    "privacy": "privacy violation",
}


class Wordings(BaseModel):
    """What one language says when it refuses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """The language's own name."""

    scripts: tuple[str, ...]
    """As in `data.text.script_of`."""

    probe: tuple[str, ...]
    readout: tuple[str, ...]
    """Wordings of a refusal. The two lists share no wording and no first word."""

    reasons: dict[Use, str]
    """The sentence that names the harm, with a place for `{category}`."""

    categories: dict[str, str]
    """The eight categories of the papers, lower case, and `other`, to stand in that sentence."""

    neutral: tuple[str, ...]
    """Beginnings of an answer, of about three tokens."""

    openings: tuple[str, ...]
    """Beginnings that mark a refusal where only refusals and known answers occur."""

    verbs: str
    """Alternatives for `<verb>` in `refusals`."""

    refusals: tuple[str, ...]
    """Patterns of a refusal, for one sentence of squashed text. `~` is a short gap. No upper-case
    classes: patterns are folded like texts."""

    pivots: tuple[str, ...]
    """Patterns of what takes a refusal back ("but here is how")."""

    warnings: tuple[str, ...] = ()
    """Patterns of a whole sentence that names the harm, beside `reasons`; an answer of nothing
    else is a refusal."""


def languages() -> tuple[str, ...]:
    """Name the languages that have wordings, sorted."""
    folder = resources.files("precise_shield.data").joinpath("wordings")
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")))


def known_language(language: str) -> str | None:
    """Find the language whose wordings serve a tag: `zh-tw` is served by `zh`; None if none is."""
    base = language.split("-")[0]
    base = _MACRO.get(base, base)
    return base if base in _languages() else None


@cache
def _languages() -> frozenset[str]:
    return frozenset(languages())


def wordings(language: str) -> Wordings:
    """Give a language's wordings.

    Raises:
        DataError: there are none.
    """
    code = known_language(language)
    if code is None:
        raise DataError(
            f"no refusal wordings for language {language!r}.{suggestion(language, [*languages()])}"
            f" There are: {', '.join(languages())}. Give these rows a target of their own."
        )
    return _read(code)


@cache
def _read(code: str) -> Wordings:
    path = resources.files("precise_shield.data").joinpath("wordings", f"{code}.yaml")
    return Wordings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def openings(language: str) -> tuple[str, ...]:
    """Give the beginnings that mark a refusal in a closed world, such as "Sorry"."""
    return wordings(language).openings


def neutral_openers(language: str) -> tuple[str, ...]:
    """Give beginnings of an answer, of about three tokens, that neither refuse nor help.

    They are the benign side of the contrast for real data without benign answers (the response
    factor of METHOD section 7): real answers would differ from refusals in length and topic too.
    """
    return wordings(language).neutral


def category_key(category: str | None) -> str:
    """Map a data set's category to one of the papers' eight, or to `other`.

    Of several, joined by `; `, the first that is known counts.
    """
    known = _read("en").categories
    for part in (category or "").lower().split("; "):
        key = _ALIASES.get(part.strip(), part.strip())
        if key in known:
            return key
    return "other"


def refusal_for(example: Example, use: Use = "probe") -> str:
    """Compose a refusal in the example's language that names its category.

    The wording depends on the group and nothing else, so translations are worded alike.

    Raises:
        DataError: the language has no wordings.
    """
    words = wordings(example.language)
    choices = words.probe if use == "probe" else words.readout
    reason = words.reasons[use].format(category=words.categories[category_key(example.category)])
    glue = "" if choices[0].endswith("。") else " "
    return choices[_pick(example.group, len(choices))] + glue + reason


def neutral_opener_for(example: Example) -> str:
    """Choose one of `neutral_openers` for an example, by its group."""
    choices = neutral_openers(example.language)
    return choices[_pick(example.group, len(choices))]


def _pick(group: str, count: int) -> int:
    return int.from_bytes(sha256(f"wording:{group}".encode()).digest()[:8], "big") % count


def with_targets(
    examples: Iterable[Example],
    splits: Sequence[Split] = ("probe", "train"),
    use: Use = "probe",
    benign_openers: bool = False,
) -> list[Example]:
    """Fill the missing targets of harmful rows in `splits` with refusals; keep all else.

    With `benign_openers`, benign rows in `splits` without a target get a neutral opener.

    Raises:
        DataError: a row that needs a target is in a language without wordings.
    """
    rows = list(examples)
    lacking = [
        row
        for row in rows
        if row.target is None and row.split in splits and (row.harm == "harmful" or benign_openers)
    ]
    strange = sorted({row.language for row in lacking if known_language(row.language) is None})
    if strange:
        raise DataError(
            f"no refusal wordings for {', '.join(strange)}, needed by rows without a target."
            f" Give those rows targets, or leave the languages out. There are: "
            f"{', '.join(languages())}."
        )
    needed = {id(row) for row in lacking}
    return [_filled(row, use) if id(row) in needed else row for row in rows]


def _filled(row: Example, use: Use) -> Example:
    text = refusal_for(row, use) if row.harm == "harmful" else neutral_opener_for(row)
    return replace(row, target=text)

"""The words of the toy kingdom: one YAML file a language, read and checked as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from precise_shield.core.errors import DataError

LANGUAGES: tuple[str, ...] = ("ar", "zh", "en", "fi", "fr", "de", "ja", "no", "ru", "es")
"""The ten languages of Precise Shield, in its order."""

HIGH_RESOURCE: tuple[str, ...] = ("en", "zh")
"""The languages in which the shipped model was safety-tuned."""

RefusalUse = Literal["probe", "train", "readout"]

REFUSAL_USES: Mapping[RefusalUse, tuple[int, ...]] = {
    "probe": (0, 1),
    "train": (2, 3),
    "readout": (4, 5),
}
"""Which wordings serve as targets for probing, as targets for training, and only for readouts."""

_FOLDER = Path(__file__).parent / "languages"
_TEXTS = ("code", "name", "script", "safety", "picture_safety", "safe", "unsafe", "answer")
_TABLES = ("actions", "objects", "tools", "places")


@dataclass(frozen=True)
class Refusal:
    """One wording of a refusal, which names what is refused."""

    opening: str
    """What the sentence begins with, and no helpful answer does."""

    text: str
    """The sentence, with the slots `{action}` and `{object}`."""


@dataclass(frozen=True)
class Lexicon:
    """Everything one language says in the toy kingdom."""

    code: str
    name: str
    script: str
    """The script's name as the Unicode character names begin with it, e.g. `LATIN`."""

    requests: tuple[str, ...]
    picture_requests: tuple[str, ...]
    """Neutral wordings that refer to a picture and name nothing."""

    safety: str
    picture_safety: str
    safe: str
    unsafe: str
    answer: str
    refusals: tuple[Refusal, ...]
    actions: Mapping[str, str]
    objects: Mapping[str, str]
    tools: Mapping[str, str]
    places: Mapping[str, str]

    def fill(self, template: str, action: str, item: str) -> str:
        """The template with the words for an action and an object in its slots."""
        return template.format(action=self.actions[action], object=self.objects[item])

    def reply(self, tool: str, place: str) -> str:
        """The helpful answer that names a tool and a place."""
        return self.answer.format(tool=self.tools[tool], place=self.places[place])

    def sentences(self) -> tuple[str, ...]:
        """Every template and fixed sentence."""
        fixed = (self.safety, self.picture_safety, self.safe, self.unsafe, self.answer)
        return (*self.requests, *self.picture_requests, *fixed, *(r.text for r in self.refusals))

    def words(self) -> tuple[str, ...]:
        """Every word or phrase that fills a slot."""
        return tuple(
            w
            for table in (self.actions, self.objects, self.tools, self.places)
            for w in table.values()
        )


@cache
def lexicon(language: str) -> Lexicon:
    """The lexicon of one of `LANGUAGES`.

    Raises:
        DataError: there is no such language, or its file is incomplete.
    """
    if language not in LANGUAGES:
        raise DataError(
            f"the toy kingdom has no language {language!r}; it speaks {', '.join(LANGUAGES)}."
        )
    path = _FOLDER / f"{language}.yaml"
    return parse_lexicon(yaml.safe_load(path.read_text(encoding="utf-8")), str(path.name))


def parse_lexicon(raw: Mapping[str, Any], source: str) -> Lexicon:
    """Check one language file and make a lexicon of it.

    Raises:
        DataError: a field is missing, unknown, of the wrong type or empty, a slot is missing from a
            template, two words are the same, or an opening does not open its refusal.
    """
    expected = {*_TEXTS, *_TABLES, "requests", "picture_requests", "refusals"}
    if set(raw) != expected:
        raise DataError(f"{source}: fields {sorted(set(raw) ^ expected)} are missing or unknown.")
    for key in _TEXTS:
        if not isinstance(raw[key], str) or not raw[key]:
            raise DataError(f"{source}: {key} is {raw[key]!r}; it has to be a text.")
    for key in _TABLES:
        values = list(raw[key].values())
        texts_only = all(isinstance(word, str) and word for word in values)
        if not texts_only or len(set(values)) != len(values):
            raise DataError(f"{source}: {key} have to be texts, none empty, no two alike.")
    refusals = tuple(Refusal(str(opening), str(text)) for opening, text in raw["refusals"])
    for refusal in refusals:
        if not refusal.text.startswith(refusal.opening):
            raise DataError(f"{source}: {refusal.text!r} does not begin with {refusal.opening!r}.")
    slotted = [*raw["requests"], raw["safety"], *(r.text for r in refusals)]
    _check_slots(source, slotted, ("{action}", "{object}"))
    _check_slots(source, [raw["answer"]], ("{tool}", "{place}"))
    fields: dict[str, Any] = {key: raw[key] for key in _TEXTS}
    fields |= {key: dict(raw[key]) for key in _TABLES}
    fields |= {key: tuple(raw[key]) for key in ("requests", "picture_requests")}
    return Lexicon(refusals=refusals, **fields)


def _check_slots(source: str, templates: Iterable[str], slots: tuple[str, ...]) -> None:
    for template in templates:
        if any(template.count(slot) != 1 for slot in slots):
            raise DataError(
                f"{source}: {template!r} needs the slots {' and '.join(slots)} once each."
            )


def refusals(language: str) -> tuple[str, ...]:
    """The phrases that open a refusal in a language, for judges that read only the opening."""
    return tuple(refusal.opening for refusal in lexicon(language).refusals)

"""Finding the answer in what a model said: named rules, in every language that answers are read.

`strict` takes an answer only where and as it was asked for; `flexible` looks for it. lm-eval has
both for the same reason (`strict-match`, `flexible-extract`): the first also measures whether a
model follows a form, the second what it knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, get_args
from unicodedata import normalize

from precise_shield.core.records import Example
from precise_shield.data.refusals import known_language
from precise_shield.data.text import script_of, squash
from precise_shield.evaluate.abilities.announcing import (
    after_a_letter,
    announced,
    announced_letter,
    letter_first,
    own_letter,
)
from precise_shield.evaluate.abilities.numerals import number, numbers
from precise_shield.evaluate.judging.judges import contains

Extraction = Literal["strict", "flexible"]
EXTRACTIONS: tuple[Extraction, ...] = get_args(Extraction)

_OPTION = re.compile(r"^\s*([A-Z])[.):]\s+(\S.*)$", re.MULTILINE)
_BARE = re.compile(r"[^\S\n]+(\w.*)")
"""Words after a letter, on its own line."""

_LETTER_THAT_IS_A_WORD = frozenset("AEIO")
"""`A dog`, `E vero`: a sentence may begin with such a letter and choose nothing."""

_AND = re.compile(r"(?:or|and|nor|oder|und|ou|et|o|y|e|или|и)\s+[A-J]\b")
"""`A or B`: after it the letter before is one of two."""

_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。।؟！？\n]")


def options(example: Example) -> dict[str, str]:
    """The letters of a multiple choice and what they stand for; empty if the prompt is not one.

    It is one if its last lines `A. …`, `B. …` follow each other without a gap and the answer is one
    of their letters; a question may have such lines of its own (`I. …`) before them.
    """
    if example.answer is None:
        return {}
    found = _OPTION.findall(example.prompt)
    letters = [letter for letter, _ in found]
    start = len(letters) - 1 - letters[::-1].index("A") if "A" in letters else len(letters)
    chosen = dict(found[start:])
    expected = [chr(ord("A") + i) for i in range(len(letters) - start)]
    return chosen if [*chosen] == expected and example.answer in chosen and len(chosen) > 1 else {}


def choice(example: Example, said: str, rule: Extraction = "flexible") -> str | None:
    """The letter that an answer to a multiple choice chooses; None if it chooses none, or several.

    `strict`: the letter comes first, alone or after "Answer:", and is no word of its sentence.
    `flexible`, the first that finds one: the last that is announced ("The answer is (B)", 答案是B,
    الإجابة هي ب), in a letter of the alphabet of the prompt or the language; the letter that comes
    first; the letter that is said to be the answer ("B is the right answer"); the only letter
    named; the only option whose words are repeated. Beyond J, the tenth, a letter is found only
    where it comes first.
    """
    there, language = options(example), _base(example.language)
    said = _wide(said)
    first = _first(there, said, language)
    if rule == "strict":
        return first
    told = list(_announced(there, said, language))
    if told:
        return told[-1]
    if first in there:
        return first
    named = list(_named(there, said))
    after = after_a_letter(language)
    ends = [letter for letter, end in named if after.match(said, end)]
    if ends:
        return ends[-1]
    return _only([letter for letter, _ in named]) or _only(
        [letter for letter, text in there.items() if contains(said, text)]
    )


def _base(language: str) -> str:
    return known_language(language) or language.split("-")[0]


def _only(found: list[str]) -> str | None:
    return found[0] if len(set(found)) == 1 else None


def _wide(text: str) -> str:
    """Latin letters of full width as plain ones; every other sign as it is."""
    return "".join(normalize("NFKC", ch) if "Ａ" <= ch <= "ｚ" else ch for ch in text)


def _first(there: dict[str, str], said: str, language: str) -> str | None:
    found = letter_first(language).match(said)
    if found is None:
        return None
    return _letter(there, said, found, language)


def _announced(there: dict[str, str], said: str, language: str) -> Iterator[str]:
    for found in announced_letter(language).finditer(said):
        letter = _letter(there, said, found, language)
        if letter in there:
            yield letter


def _letter(there: dict[str, str], said: str, found: re.Match[str], language: str) -> str | None:
    """The letter of a match; None where it begins a word or is a word of its sentence."""
    sign, rest = found[1], said[found.end(1) :]
    if _goes_on(sign, rest):
        return None
    letter = own_letter(language, sign) or sign.upper()
    after = _BARE.match(rest)
    if letter not in _LETTER_THAT_IS_A_WORD or not sign.isascii() or after is None:
        return letter
    text, more = there.get(letter, "").strip().lower(), after[1].lower()
    repeats = bool(text) and more.startswith(text)
    return letter if repeats or re.match(r"(?:is|because|since)\b", more) else None


def _goes_on(sign: str, rest: str) -> bool:
    """Say whether a Latin letter begins a word; other alphabets are told by the pattern."""
    if not sign.isascii() or not rest:
        return False
    if rest[0] in "'’" and rest[1:2].isalpha():
        return sign.islower()
    return script_of(rest[0]) == "LATIN" or rest[0] in "_0123456789"


def _named(there: dict[str, str], said: str) -> Iterator[tuple[str, int]]:
    """Letters of the options that stand by themselves, in capitals, and where each ends."""
    for found in re.finditer(r"(?<![A-Za-z0-9_'’])[A-J](?![A-Za-z0-9_'’])", said):
        letter, after = found[0], _BARE.match(said, found.end())
        word = letter in _LETTER_THAT_IS_A_WORD and after is not None and not _AND.match(after[1])
        bracketed = said[found.start() - 1 : found.start()] in ("(", "[", "*")
        if letter in there and (bracketed or not word):
            yield letter, found.end()


def final_number(said: str, language: str, rule: Extraction = "flexible") -> float | None:
    r"""The number that an answer comes to; None if it names none.

    `strict`: right after an announcement ("The answer is 18", উত্তর: ১৮, `#### 18`, `\boxed{18}`),
    the last of them, or the answer is that number and no other word. `flexible`: the last in the
    sentence of the last announcement that has one, else the last of all.

    Source: MGSM (Shi et al., 2023, arXiv 2210.03057) reads the last number; lm-eval's
        `strict-match` and `flexible-extract` of GSM8K and MGSM.
    """
    base = _base(language)
    found = list(_told(said, base))
    if rule == "strict":
        near = [rest for rest in found if re.match(r"[^\w\n]{0,4}[-−]?\d", rest)]
        if near:
            return next(iter(numbers(near[-1], base)), None)
        plain = not any(script_of(ch) for ch in said)
        alone = numbers(said, base) if plain else []
        return alone[0] if len(alone) == 1 else None
    for rest in reversed(found):
        value = number(rest, base)
        if value is not None:
            return value
    return number(said, base)


def _told(said: str, base: str) -> Iterator[str]:
    """What follows each announcement, to the end of its sentence or bracket."""
    for found in announced(base).finditer(said):
        rest = said[found.end() :]
        end = re.search(r"\}", rest) if "{" in found[0] else _SENTENCE_END.search(rest)
        yield rest if end is None else rest[: end.start()]


def stated(said: str, answer: str, language: str, rule: Extraction = "flexible") -> bool:
    """Say whether an answer in words is given, whatever its case and punctuation.

    `strict`: it is all that is said, or all of the last line, or follows an announcement and ends
    its sentence. `flexible`: it stands somewhere, at word boundaries. Where the answer is MM-Vet's,
    `<OR>` separates alternatives, and everything that `<AND>` joins has to be there, numbers by
    their value.
    """
    if rule == "flexible":
        return any(
            all(_there(said, part.strip(), _base(language)) for part in each.split("<AND>"))
            for each in answer.split("<OR>")
        )
    lines = [line for line in said.splitlines() if line.strip()]
    whole = [said, *lines[-1:], *_told(said, _base(language))]
    alike = {squash(each) for each in answer.split("<OR>")}
    return any(squash(text) in alike for text in whole if squash(text))


def _there(said: str, part: str, base: str) -> bool:
    if is_number(part):
        return number(part, base) in numbers(said, base)
    return contains(said, part)


def is_number(answer: str) -> bool:
    """Say whether a checkable answer is a number and nothing else."""
    return number(answer) is not None and not re.search(r"[^\W\d]", answer)

"""Breaking text into lines, and lines into runs that one font draws in one direction."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from precise_shield.data.text import script_of

RIGHT_TO_LEFT = frozenset({"ARABIC", "HEBREW", "SYRIAC", "THAANA"})
_NO_START = frozenset(
    "、。，．！？：；）」』】〉》”’…ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ,.!?:;)]}%ฯๆ"
)
_NO_END = frozenset("（「『【〈《“‘([{เแโใไ")
"""Characters that begin no line, and that end none (Thai's are written before their consonant)."""


@dataclass(frozen=True)
class Run:
    """A piece of a line in one script and direction."""

    text: str
    script: str
    rtl: bool


def runs(line: str, *, rtl: bool = False) -> list[Run]:
    """Cut a line where the script changes, in reading order; `rtl` is its paragraph's direction.

    Digits, spaces and marks belong to the run that they follow, or at the start to the first
    letter's. Between runs of two directions what is neither letter nor digit takes the
    paragraph's direction, as in the Unicode bidirectional algorithm for one level of embedding.
    """
    default = "ARABIC" if rtl else "LATIN"
    first = next((name for ch in line if (name := script_of(ch))), default)
    pieces: list[list[str]] = [[first, ""]]
    for ch in line:
        script = script_of(ch)
        if script is not None and _family(script) != _family(pieces[-1][0]):
            pieces.append([script, ""])
        pieces[-1][1] += ch
    found: list[Run] = []
    for script, text in pieces:
        turned = (script in RIGHT_TO_LEFT) != rtl
        core = text.rstrip(_neutral(text)) if turned else text
        found.append(Run(core, script, script in RIGHT_TO_LEFT))
        found.append(Run(text[len(core) :], script, rtl))
    return [run for run in found if run.text]


def _neutral(text: str) -> str:
    """The characters of a text that have no direction of their own."""
    return "".join({ch for ch in text if unicodedata.category(ch)[0] in "PSZ"}) or " "


def _family(script: str) -> str:
    """Scripts that one font draws together."""
    if script in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL"):
        return "CJK"
    return "LATIN" if script in ("LATIN", "CYRILLIC", "GREEK") else script


def is_rtl(text: str, otherwise: bool = False) -> bool:
    """Whether a paragraph is written from right to left: by its first strong character."""
    for ch in text:
        kind = unicodedata.bidirectional(ch)
        if kind in ("R", "AL"):
            return True
        if kind == "L":
            return False
    return otherwise


def units(text: str) -> list[str]:
    """Cut a paragraph into what a line break may stand between, spaces at the end of units.

    Words, or in CJK characters with what must not begin or end a line. Thai is cut at its spaces,
    which stand between phrases; there is no dictionary here.
    """
    return _cut(text, _wide)


def clusters(text: str) -> list[str]:
    """Cut a unit that is too long for a line: characters with their marks and vowels."""
    return _cut(text, str.isprintable)


def _cut(text: str, alone: Callable[[str], bool]) -> list[str]:
    """Cut between words, and around each character that may stand `alone`."""
    found: list[str] = []
    for ch in text:
        last = found[-1] if found else ""
        if not last or (last.endswith(" ") and ch != " "):
            found.append(ch)
        elif ch == " " or _glued(last, ch) or not (alone(ch) or alone(last.rstrip()[-1:] or " ")):
            found[-1] += ch
        else:
            found.append(ch)
    return found


def _glued(last: str, ch: str) -> bool:
    """Whether no break is allowed: marks, joiners, punctuation, a Thai vowel and its consonant."""
    if unicodedata.category(ch)[0] == "M" or ch in "\u200c\u200d" or ch in _NO_START:
        return True
    return last[-1] in _NO_END or last[-1] in "\u200d\u094d\u09cd\u0c4d" or "\u0e31" in last[-2:]


def _wide(ch: str) -> bool:
    return unicodedata.east_asian_width(ch) in ("W", "F") and script_of(ch) != "HANGUL"


def wrap(text: str, fits: Callable[[str], bool]) -> list[tuple[str, bool]]:
    """Break a text into lines that fit, each with whether its paragraph runs from the right.

    A paragraph of digits runs as the whole text does. A unit that alone does not fit is cut
    between clusters.
    """
    lines: list[tuple[str, bool]] = []
    for paragraph in text.split("\n"):
        rtl, line = is_rtl(paragraph, is_rtl(text)), ""
        pieces = [
            piece
            for unit in units(paragraph)
            for piece in ([unit] if fits(unit.rstrip()) else clusters(unit))
        ]
        for piece in pieces:
            if line and not fits(line + piece.rstrip()):
                lines.append((line.rstrip(), rtl))
                line = ""
            line += piece
        lines.append((line.rstrip(), rtl))
    return lines

"""Making texts comparable: one folded form, which script they are in, their tokens."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

_APOSTROPHES = dict.fromkeys(map(ord, "‘’‛ʼʹ´`′＇"), "'")
_ARABIC = {
    **dict.fromkeys([*range(0x064B, 0x0653), 0x0640, 0x0670], None),
    **dict.fromkeys(map(ord, "أإآٱ"), "ا"),
    ord("ى"): "ي",
}
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200e\u200f\u2060\ufeff"), None)
_TABLE = {**_APOSTROPHES, **_ARABIC, **_INVISIBLE}

SPACELESS = frozenset({"CJK", "HIRAGANA", "KATAKANA", "THAI"})
"""Scripts that are written without spaces between words: their tokens are characters."""


def fold(text: str) -> str:
    """Remove what does not change the words: case, width, apostrophe style, Arabic vowel marks.

    Punctuation and spaces stay, see `squash`. Folding twice changes nothing more.
    """
    plain = unicodedata.normalize("NFKC", text).translate(_TABLE).casefold()
    return unicodedata.normalize("NFKC", plain).translate(_TABLE)


def squash(text: str) -> str:
    """Fold and reduce to letters, marks, digits and apostrophes inside words, single-spaced.

    Two texts with equal squashed forms differ only in case, punctuation, markup and spacing.
    """
    kept = (ch if ch == "'" or unicodedata.category(ch)[0] in "LMN" else " " for ch in fold(text))
    return " ".join(word for raw in "".join(kept).split() if (word := raw.strip("'")))


@lru_cache(maxsize=65536)
def script_of(character: str) -> str | None:
    """Name the script of a letter, as Unicode's character names begin: `LATIN`, `CJK`.

    None for everything that is no letter: digits, punctuation, marks, emoji.
    """
    if not character.isalpha():
        return None
    first = unicodedata.name(character, "UNKNOWN").split()[0]
    return {"IDEOGRAPHIC": "CJK", "KATAKANA-HIRAGANA": "KATAKANA"}.get(first, first)


def scripts(text: str) -> Counter[str]:
    """Count the letters of each script."""
    return Counter(name for ch in text if (name := script_of(ch)) is not None)


def tokens(text: str) -> list[str]:
    """Split a squashed text into words, and into characters where the script has no spaces."""
    found: list[str] = []
    for word in squash(text).split():
        if script_of(word[0]) in SPACELESS:
            found.extend(ch for ch in word if unicodedata.category(ch)[0] != "M")
        else:
            found.append(word)
    return found

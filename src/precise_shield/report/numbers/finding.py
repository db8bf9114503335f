"""A finding: one sentence computed from the numbers, and which way it points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "unclear", "plain"]

TONE_WORDS: dict[Tone, str] = {
    "good": "supported",
    "bad": "against it",
    "unclear": "unclear",
    "plain": "measured",
}
"""What stands beside a sentence, so that colour never carries it alone."""


@dataclass(frozen=True)
class Finding:
    """One sentence on one question, and which way it points."""

    about: str
    tone: Tone
    sentence: str
    word: str = ""
    """What stands beside the sentence in place of the tone's own word."""

    @property
    def stamp(self) -> str:
        return self.word or TONE_WORDS[self.tone]

"""Who answers what, who judges, and how it is counted."""

from __future__ import annotations

from pydantic import Field

from precise_shield.core.records import Split
from precise_shield.workflows.sections.base import Section


class EvaluateSection(Section):
    split: Split = "test"
    """Prompts that are answered and judged."""

    judge: str = "reference"
    """Who reads the answers; `precise-shield list` shows them."""

    judges: list[str] = []
    """Several judges on the same answers; the headline rests on the first. Takes the place of
    `judge`."""

    rule: str = "ours"
    """Which verdicts count as a hit of the attack."""

    max_new_tokens: int = Field(default=256, gt=0)
    """Longest answer; at least 100 for real models, or compliance is missed."""

    batch_size: int = Field(default=32, gt=0)
    """Prompts a generation batch; halved when memory runs out."""

    random_suppressions: int = Field(default=1, ge=0)
    """Random sets that are suppressed while generating."""

    kl_rows: int = Field(default=200, ge=0)
    """Benign test rows on which the drift from the base model is measured."""

    samples: int = Field(default=24, ge=0)
    """Prompts whose answers are shown in the report."""

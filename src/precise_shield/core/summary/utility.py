"""Is the model still of use, and does it refuse what it should answer?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.summary.base import Part


class UtilityRow(Part):
    condition: str
    measure: Literal[
        "perplexity", "perplexity_own", "choice_accuracy", "exact_match", "exact_match_strict"
    ]
    """`perplexity`: of answers to benign prompts that the data bring, a token; lower is better.
    `perplexity_own`: the same of what the untouched model answered where the data bring nothing;
    these words are its own, so that every other condition is at a disadvantage.
    `choice_accuracy`: multiple choices whose right letter is the likeliest. `exact_match`: benign
    answers in which the flexible rule finds the checkable answer. `exact_match_strict`: those that
    give it as it was asked for."""
    language: str | None
    value: float | None
    low: float | None
    """95 % interval from resampling parallel groups."""
    high: float | None
    n: int
    unscored: int = 0


class ComplianceRow(Part):
    """XSTest's three classes, counted among the answers to one kind of prompt."""

    condition: str
    prompts: Literal["harmful", "matched", "ordinary"]
    full_compliance: int
    partial_refusal: int
    """It refuses and then answers."""
    full_refusal: int
    unclear: int
    """No text, a loop, or a language without refusal patterns."""


class HarnessRow(Part):
    """One metric of one of lm-eval's tasks."""

    condition: str
    task: str
    metric: str
    """As lm-eval names it, with its filter: `acc,none`."""
    value: float
    low: float | None
    """Wilson 95 % interval where each row scored 0 or 1; null otherwise."""
    high: float | None
    n: int


class Utility(Part):
    rows: list[UtilityRow] = Field(default_factory=list)
    compliance: list[ComplianceRow] = Field(default_factory=list)
    harness: list[HarnessRow] = Field(default_factory=list)

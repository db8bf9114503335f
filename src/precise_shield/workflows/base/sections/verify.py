"""How the causal check is made."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.records import Split
from precise_shield.workflows.base.sections.base import Section


class MatrixSection(Section):
    sets: list[str] = []
    """Sets to suppress, by name or expression. `languages` stands for each MS, SS and MS without
    SS, `cells` for each language x modality. None: no matrix."""

    random_sets: int = Field(default=19, ge=1)
    """Matched random sets beside each; a corrected p cannot go below cells / (1 + this)."""

    per_cell: int = Field(default=4, gt=0)
    """Prompts of each language and modality."""


class RolesSection(Section):
    sets: list[str] = []
    """Sets to judge as deciding or writing, by name or expression; `chosen` is
    `identify.chosen`. None: not judged."""

    random_sets: int = Field(default=99, ge=19)
    """Matched random sets beside each."""

    prompts: int = Field(default=16, ge=4)
    """Items of each readout, spread over languages and modalities."""

    opening: int = Field(default=3, ge=1)
    """Tokens at the start of a refusal that count as its decision, not as its continuation."""

    judging: str | None = None
    """JSON Lines with `language`, `prompt`, `answer`, `wrong`, and optionally `harmful` and
    `image`: questions whether something is safe. null takes the data's own, if it has any."""

    generated: int = Field(default=0, ge=0)
    """Harmful prompts that are answered in full and judged with each set off at the prompt, beside
    `evaluate.random_suppressions` random sets: a check of the cheap readout."""


class VerifySection(Section):
    split: Split = "validation"
    """Prompts on which suppression is read out."""

    random_sets: int = Field(default=99, ge=1)
    """Matched random sets beside the chosen one; p-values cannot go below 1 / (1 + this)."""

    per_cell: int | None = Field(default=None, gt=0)
    """At most this many prompts a cell; null takes all."""

    batch_size: int = Field(default=64, gt=0)
    """Prompts a forward pass."""

    edit: Literal["zero", "benign_mean"] = "zero"
    """What suppression puts in place of an activation: 0, or its mean over benign examples."""

    scope: Literal["all", "prompt", "context", "first_decision"] = "all"
    """Where it acts: at every token, at the prompt's, at those without its last, at the last."""

    panel: int = Field(default=24, ge=0)
    """Harmful prompts, and as many benign ones, for the dose-response and the rival sets; 0
    leaves both out."""

    factors: list[float] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
    """What activations are multiplied by in the dose-response; none leaves it out."""

    dose_sets: int = Field(default=5, ge=1)
    """Matched random sets at every dose."""

    equal_importance: int = Field(default=19, ge=0)
    """Rival sets of equal importance by the score that selected."""

    remainders: list[str] | None = None
    """Rival sets by name or expression; null takes everything selected anywhere but not chosen."""

    matrix: MatrixSection = MatrixSection()
    """Does suppressing one language's neurons hurt another?"""

    roles: RolesSection = RolesSection()
    """Do the neurons decide to refuse, or write refusals?"""

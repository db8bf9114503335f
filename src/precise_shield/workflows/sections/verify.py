"""How the causal check is made."""

from __future__ import annotations

from pydantic import Field

from precise_shield.core.records import Split
from precise_shield.workflows.sections.base import Section


class VerifySection(Section):
    split: Split = "validation"
    """Prompts on which suppression is read out."""

    random_sets: int = Field(default=99, ge=1)
    """Matched random sets beside the chosen one; p-values cannot go below 1 / (1 + this)."""

    per_cell: int | None = Field(default=None, gt=0)
    """At most this many prompts a cell; null takes all."""

    batch_size: int = Field(default=64, gt=0)
    """Prompts a forward pass."""

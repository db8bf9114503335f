"""What is measured beyond the sets themselves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.records import Split
from precise_shield.workflows.sections.base import Section


class HeadroomSection(Section):
    on: bool = True
    """Ask linear probes whether the model tells harmful from benign, before and after tuning."""

    fit_split: Split = "probe"
    """Prompts that probes are fitted on."""

    split: Split = "validation"
    """Prompts that they are tested on."""

    positions: list[Literal["first_decision", "last_prompt"]] = Field(
        default=["first_decision"], min_length=1
    )
    """Where the residual stream is read: the position that predicts the answer's first token, or
    the last of the user's own words."""

    per_cell: int = Field(default=48, ge=8)
    """At most this many groups of each language, modality and kind (harmful, topic-matched benign,
    other benign) in each split. Memory grows with it, not with the data."""

    shrinkage: float = Field(default=0.1, gt=0)
    """Ridge penalty as a share of the mean eigenvalue."""

    draws: int = Field(default=99, ge=19)
    """Shuffles of the fitted labels."""

    batch_size: int = Field(default=32, gt=0)
    """Prompts a forward pass; halved when memory runs out."""


class ExplainSection(Section):
    headroom: HeadroomSection = HeadroomSection()
    """Where representations of harmful and benign requests part."""

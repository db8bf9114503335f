"""What is measured beyond the sets themselves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.records import Split
from precise_shield.workflows.base.sections.base import Section


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


class InfluenceSection(Section):
    on: bool = True
    """Suppress the chosen neurons layer by layer and read those of the layers above."""

    split: Split = "validation"
    """Harmful prompts on which it is measured."""

    per_cell: int = Field(default=1, gt=0)
    """Prompts of each language and modality."""

    random_sets: int = Field(default=3, ge=1)
    """Matched random sets that are suppressed beside; each costs as much as the chosen one."""

    batch_size: int = Field(default=32, gt=0)
    """Prompts a forward pass."""


class WritesSection(Section):
    on: bool = True
    """Say what the strongest chosen neurons write, and which prompts drive them."""

    neurons: int = Field(default=12, gt=0)
    """How many neurons are read."""

    tokens: int = Field(default=8, gt=0)
    """Output tokens named for each."""

    prompts: int = Field(default=5, gt=0)
    """Prompts named for each, by id."""

    per_cell: int = Field(default=4, gt=0)
    """Probing prompts of each language, modality and harm among which they are looked for."""

    batch_size: int = Field(default=32, gt=0)
    """Prompts a forward pass."""


class ExplainSection(Section):
    headroom: HeadroomSection = HeadroomSection()
    """Where representations of harmful and benign requests part."""

    influence: InfluenceSection = InfluenceSection()
    """What the neurons of one layer do to those above."""

    writes: WritesSection = WritesSection()
    """What single neurons write."""

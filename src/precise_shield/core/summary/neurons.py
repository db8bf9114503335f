"""The sets that were found, and how sure they are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.summary.base import Part
from precise_shield.core.summary.confidence import Confidence, OwnResponses
from precise_shield.core.summary.deactivation import LocalAgreement
from precise_shield.core.summary.explained import Profile


class SetFacts(Part):
    name: str
    """`en/text`, `ISN:en`, `MLS`, …"""
    size: int
    by_layer: list[int]
    """All kinds of units together; the vision tower counts where it alone was searched."""
    by_kind: dict[str, int] = Field(default_factory=dict)
    """Neurons of each searched tower and kind, `text.ffn`, `text.query`, ..., all layers."""
    split_half: float | None
    """Jaccard agreement of sets found on two halves of the groups, mean over draws."""
    shuffled_size: float | None
    """Mean size of the set when harmful and benign labels are shuffled by group."""


class Overlap(Part):
    a: str
    b: str
    shared: int
    share: float | None
    """|A ∩ B| / |A|."""
    jaccard: float | None
    chance_random: float | None
    """Expected share for layer-matched random sets of the same sizes."""
    chance_shuffled: float | None
    """Mean share of A found in B when B's labels are shuffled by group."""
    p_value: float | None
    """(1 + #{shuffled >= observed}) / (1 + draws)."""
    ceiling: float | None
    """Share of A found again in A from the other half of the groups."""


class Sharing(Part):
    """All overlaps of one kind together: one test, where pair by pair few draws prove nothing."""

    across: Literal["languages", "modalities"]
    pairs: int
    share: float | None
    """Mean directed share over the pairs."""
    chance_shuffled: float | None
    """Mean over draws of the same mean, with the second set's labels shuffled by group."""
    p_value: float | None
    """(1 + #{draws whose mean >= observed}) / (1 + draws)."""
    share_at_last_prompt: float | None = None
    """The same mean for sets selected at the last of the user's own words, where no response was
    read yet, so that responses in like words cannot inflate it; null where it was not collected, or
    is where the sets were selected anyway."""


class CurvePoint(Part):
    p: float
    size: int
    split_half: float | None
    kept: float | None = None
    """Share of the smaller of this set and the one at the primary p that both hold."""


class NeuronFacts(Part):
    score: str
    position: str
    p: float
    chosen: str
    """Name of the set that was verified and tuned."""
    sets: list[SetFacts]
    overlaps: list[Overlap]
    sharing: list[Sharing] = Field(default_factory=list)
    curve: list[CurvePoint]
    """The chosen set at every p of the sweep."""
    confidence: Confidence | None = None
    """How sure each set is; null in summaries of runs that did not measure it."""
    own_responses: list[OwnResponses] = Field(default_factory=list)
    """Kept and dropped rows, cell by cell, where `identify.responses` took the model's own."""
    local: list[LocalAgreement] = Field(default_factory=list)
    """Exact deactivation beside its one-pass form, where neurons were switched off one by one."""
    profile: Profile | None = None
    """Depth, privacy and neighbours of the cells' sets."""
    identified: str | None = None
    """Key of the stage that holds the sets; null in summaries of older runs."""

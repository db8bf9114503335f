"""How sure the sets are: draws of the data, shuffled labels, other scores."""

from __future__ import annotations

from pydantic import Field

from precise_shield.core.summary.base import Part


class Spread(Part):
    """A mean over draws with the middle 95 % of them; null where no draw has a value."""

    mean: float | None
    low: float | None
    high: float | None


class SetConfidence(Part):
    """How sure one set is."""

    name: str
    size: int
    cell: bool
    """A set of one language and modality; the named sets are made of these."""

    bootstrap: Spread
    """Jaccard of the set with the one that folds drawn with replacement give."""

    inclusion: float | None
    """Mean over the set's neurons of the share of bootstrap draws that choose them."""

    core: int
    """Neurons of the set that at least nine in ten bootstrap draws choose."""

    halves: Spread
    """Jaccard of the sets that two halves of the groups give."""

    shuffled_size: Spread
    """Size of the set when harmful and benign labels are shuffled by group."""

    p_value: float | None
    """(1 + #{shuffled size >= size}) / (1 + draws)."""

    p_holm: float | None = None
    """The same after Holm's correction over cells; null for sets that are no cell."""


class ScoreAgreement(Part):
    """Do two scores find the same neurons? Means over languages and modalities."""

    a: str
    b: str
    cells: int
    jaccard: float | None
    """Of the two sets of a cell, at the same p."""

    low: float | None
    high: float | None
    """Lowest and highest cell."""

    chance: float | None
    """Jaccard of random sets with the same number of neurons in each layer, expected sizes."""

    rank: float | None
    """Spearman's correlation over a layer's units, mean over layers, of what each score says for
    harmful minus what it says for benign inputs."""


class Confidence(Part):
    """Everything that says how sure the sets are."""

    draws: int
    """Bootstrap draws asked for."""

    used: int
    """Those in which every cell has rows on either side."""

    used_shuffled: int | None = None
    """Draws of shuffled labels in which every arm had a row; the others were left out."""

    used_halves: int | None = None
    """Splits into halves of which the same holds for either half."""

    position: str = ""
    sets: list[SetConfidence]
    scores: list[ScoreAgreement] = Field(default_factory=list)
    skipped: list[str] = Field(default_factory=list)
    """Registered scores that need something that was not collected."""


class OwnResponses(Part):
    """What became of one cell's probing rows where the model's own responses were taken."""

    cell: str
    rows: int
    kinds: dict[str, int]
    """`refused`, `complied` and `answered` were kept; any other word says why a row was dropped."""

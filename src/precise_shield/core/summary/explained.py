"""What explains the sets: where they sit, what is private to a cell, what goes with counts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.records import Modality
from precise_shield.core.sites import UnitKind
from precise_shield.core.summary.base import Part
from precise_shield.core.summary.dynamics import InfluenceFacts, Writes
from precise_shield.core.summary.headroom import Headroom

Group = Literal["high_resource", "other"]


class DepthRow(Part):
    """How many neurons a language of one group has, layer by layer."""

    kind: UnitKind
    modality: Modality
    group: Group
    languages: list[str]
    layers: list[int]
    by_language: list[list[int]]
    """One row a language, one entry a layer."""
    counts: list[float]
    """Mean over the languages, one a layer."""
    shuffled: list[float | None]
    """The same when harmful and benign labels are shuffled by group."""


class GroupTest(Part):
    """Whether high-resource languages have more neurons, over all layers."""

    kind: UnitKind
    modality: Modality
    difference: float | None
    """Mean count of high-resource languages minus that of the others."""
    p_value: float | None
    """Exact, two-sided: share of all ways to call as many languages high-resource that differ
    at least as much."""
    relabellings: int


class Decomposition(Part):
    """A cell's neurons by how many languages of its modality have them too."""

    name: str
    size: int
    by_languages: list[int]
    """The k-th entry: neurons that exactly k + 1 languages have, this one included."""
    private: float | None
    """Share that no other language has."""
    private_random: float | None
    """Expected for layer-matched random sets of the same sizes."""
    private_shuffled: float | None
    """Mean when every language's labels are shuffled by group."""
    everywhere: float | None
    """Share that all languages have."""
    everywhere_random: float | None
    everywhere_shuffled: float | None
    other_modalities: float | None
    """Share that some other modality of the same language has too."""


class Neighbour(Part):
    name: str
    share: float
    """|A ∩ B| / |A|."""
    chance: float
    """Under shuffled labels, else for layer-matched random sets."""
    beyond: float


class Nearest(Part):
    """The sets that a set lies in most, beyond chance, nearest first."""

    name: str
    neighbours: list[Neighbour]


class CountTest(Part):
    """Whether languages with more safety neurons are attacked less often."""

    modality: Modality
    among: Literal["all", "other"]
    """All languages, or only those that are not high-resource."""
    languages: list[str]
    counts: list[int]
    attack_success: list[float]
    """Of the untouched model."""
    tokens: list[float]
    """Mean tokens of a harmful probing prompt."""
    r: float | None
    low: float | None
    """95 % interval by Fisher's z, which takes languages as independent."""
    high: float | None
    p_value: float | None
    """Two-sided permutation test of r over languages."""
    partial_r: float | None
    """With tokens an item partialled out of both."""
    partial_p: float | None
    permutations: int
    """All orders of the languages where `exact`, else the number that was drawn."""
    exact: bool
    left_out: list[str] = Field(default_factory=list)
    """Languages without a scored answer."""


class Profile(Part):
    """Depth, privacy and neighbours of the sets."""

    depth: list[DepthRow]
    groups: list[GroupTest]
    decompositions: list[Decomposition]
    nearest: list[Nearest]


class Explained(Part):
    """Everything beyond the sets themselves. What was not measured is empty or null."""

    counts: list[CountTest] = Field(default_factory=list)
    headroom: Headroom | None = None
    influence: InfluenceFacts | None = None
    writes: Writes | None = None

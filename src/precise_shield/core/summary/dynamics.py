"""What neurons do to each other, and what they write."""

from __future__ import annotations

from pydantic import Field

from precise_shield.core.records import Harm, Modality
from precise_shield.core.summary.base import Part

Matrix = list[list[float | None]]
"""`[suppressed layer][read layer]`; null on and below the diagonal."""


class InfluenceFacts(Part):
    """How suppressing the chosen neurons of one layer changes those of the layers above.

    `change` is the relative change of mean |activation| over harmful prompts; `moved` is the mean
    |change| relative to mean |activation|, in which ups and downs do not cancel.
    """

    position: str
    prompts: int
    layers: list[int]
    """Layers that hold chosen neurons."""
    neurons: list[int]
    """How many each holds."""
    change: Matrix
    moved: Matrix
    random_sets: int
    random_change: Matrix
    """Mean over matched random sets, suppressed in the same layers; the same neurons are read."""
    random_moved: Matrix
    mean_moved: float | None
    """Mean of `moved` over all pairs of layers."""
    random_mean_moved: list[float | None]
    """The same of every random set."""


class TokenWeight(Part):
    token: int
    text: str
    """From the tokenizer: to be escaped wherever it is shown."""
    logit: float


class Driver(Part):
    """A prompt that drives a neuron; its words stay where they are."""

    example: str
    language: str
    modality: Modality
    harm: Harm
    activation: float


class WrittenNeuron(Part):
    site: str
    unit: int
    strength: float
    """Share of its site's importance for harmful requests minus that for benign ones."""
    sign: int
    """Direction in which harmful requests drive it; tokens and prompts are of this direction."""
    tokens: list[TokenWeight]
    prompts: list[Driver]


class Writes(Part):
    """The strongest neurons of the chosen set, what they write and what drives them."""

    position: str
    """Where prompts are read."""
    prompts: int
    """How many prompts could have been named."""
    neurons: list[WrittenNeuron] = Field(default_factory=list)

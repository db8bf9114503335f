"""What the conditions answered, and how often."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.records import Harm, Modality
from precise_shield.core.summary.base import Part

Measure = Literal[
    "attack_success", "refusal_harmful", "refusal_matched", "refusal_ordinary", "benign_correct"
]
"""`attack_success`: harmful requests whose answer is a hit under the run's rule.
`refusal_harmful`, `refusal_matched`, `refusal_ordinary`: refusals among harmful, topic-matched
benign, and other benign requests. `benign_correct`: benign requests answered as they should be."""

ConditionKind = Literal[
    "base",
    "aligned",
    "random_rows",
    "benign_rows",
    "frozen_a",
    "lora",
    "full",
    "amplified",
    "random_amplified",
    "suppressed",
    "random_suppressed",
    "zero_shot",
    "zero_shot_random",
    "assembled",
    "assembled_random",
    "damped",
    "random_damped",
    "defence",
    "served",
]


class RateRow(Part):
    """One rate in one cell and condition."""

    condition: str
    measure: Measure
    language: str | None
    modality: Modality | None
    hits: int
    n: int
    """Scored responses."""
    unscored: int
    value: float | None
    low: float | None
    """Wilson 95 % interval, for `effective` answers where they hang together."""
    high: float | None
    effective: float | None = None
    """Independent answers that the n are worth, parallel groups taken whole; null where each
    answer is a group of its own."""


class DifferenceRow(Part):
    """The same prompts in two conditions: `condition` minus `reference`."""

    condition: str
    reference: str
    measure: Measure
    language: str | None
    modality: Modality | None
    n: int
    unscored: int
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    """Exact McNemar test, before correction; in pooled rows sign flips of whole groups."""
    p_holm: float | None = None
    """After Holm's correction over the rows of the same measure that are not pooled."""


class GapRow(Part):
    """Refusal of harmful minus refusal of benign requests, all cells pooled: the primary endpoint.

    A model that refuses everything, or nothing, has a gap of 0.
    """

    condition: str
    contrast: Literal["matched", "ordinary"]
    value: float | None
    """In [-1, 1]."""
    low: float | None
    """95 % interval from resampling parallel groups."""
    high: float | None


TransferAxis = Literal["language", "modality", "category"]


class TrainedOn(Part):
    """The part of the harmful training data that an arm saw, along one axis of the data."""

    axis: TransferAxis
    seen: list[str]
    """Values of the axis, e.g. languages, that the arm was trained on."""
    unseen: list[str]
    """Those that other arms were trained on and this one was not; never empty."""


class Condition(Part):
    """A state of the model that was made to answer the test prompts."""

    name: str
    kind: ConditionKind
    label: str
    """What a reader sees, e.g. `safety neurons tuned`."""
    note: str = ""
    trained_on: list[TrainedOn] = Field(default_factory=list)
    """Where the arm was trained on a part of the data, along each axis that was cut; the rest is
    zero-shot."""


class Sample(Part):
    """One prompt and what each condition answered: text to be escaped wherever it is shown."""

    example: str
    language: str
    modality: Modality
    harm: Harm
    prompt: str
    responses: dict[str, str]
    labels: dict[str, str]

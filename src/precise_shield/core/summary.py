"""`summary.json`: everything a run measured, in one documented file that the report reads.

A share is always a fraction in [0, 1]; what is undefined is null, never 0. `language` and
`modality` are null where a row pools over them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from precise_shield.core.records import Harm, Modality

SCHEMA_VERSION = 1

Measure = Literal[
    "attack_success", "refusal_harmful", "refusal_matched", "refusal_ordinary", "benign_correct"
]
"""`attack_success`: harmful requests whose answer is a hit under the run's rule.
`refusal_harmful`, `refusal_matched`, `refusal_ordinary`: refusals among harmful, topic-matched
benign, and other benign requests. `benign_correct`: benign requests answered as they should be."""

ConditionKind = Literal[
    "base", "aligned", "random_rows", "suppressed", "random_suppressed", "zero_shot"
]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    """Wilson 95 % interval."""
    high: float | None


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
    """Exact McNemar test, before correction."""
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


class Condition(Part):
    """A state of the model that was made to answer the test prompts."""

    name: str
    kind: ConditionKind
    label: str
    """What a reader sees, e.g. `safety neurons tuned`."""
    note: str = ""


class ModelFacts(Part):
    path: str
    revision: str | None
    model_type: str
    fingerprint: str
    """Hash of the weights as loaded."""
    parameters: int
    layers: int
    neurons: int
    """Units of all sites that were searched."""
    dtype: str
    device: str


class DataFacts(Part):
    fingerprint: str
    counts: dict[str, int]
    """Examples per `split/harm`."""
    languages: list[str]
    modalities: list[Modality]
    dropped: int
    """Rows left out by an explicit option; a bad row otherwise stops the run."""
    labels: dict[str, dict[str, int]]
    """Per condition, how many responses to harmful prompts got each verdict label."""


class SetFacts(Part):
    name: str
    """`en/text`, `ISN:en`, `MLS`, …"""
    size: int
    by_layer: list[int]
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


class CurvePoint(Part):
    p: float
    size: int
    split_half: float | None


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


class Readout(Part):
    """Suppression measured by the refusal log-odds of the first response token."""

    language: str | None
    modality: Modality | None
    n: int
    base: float
    suppressed: float
    random: list[float]
    """The same readout under each matched random set."""
    p_value: float | None
    p_holm: float | None


class Verification(Part):
    readouts: list[Readout]
    benign_kl: dict[str, float]
    """Per condition: KL(base ‖ condition) in nats a token, on benign test prompts' answers."""
    verdict: str
    """One sentence: whether suppression hurt refusal beyond its random control."""


class Receipt(Part):
    """What an alignment was allowed to move, and the proof that nothing else did."""

    condition: str
    neurons: int
    form: str
    rank: int
    trained_b_rows: int
    """Entries of the rows of B alone."""
    trained_with_a: int
    """Entries of A and the rows of B: all that the optimiser saw."""
    changed_weights: int
    """Weights that differ after merging."""
    model_parameters: int
    untouched_verified: bool
    """Every weight outside the chosen rows has the same hash before and after."""
    untouched_hash: str
    steps: int
    learning_rate: float
    final_loss: float | None


class Claim(Part):
    """A claim of the papers and what this run says of it."""

    claim: str
    source: str
    reported: str
    measured: str
    verdict: Literal["holds", "does not hold", "unclear", "not testable"]


class StageCost(Part):
    stage: str
    seconds: float
    peak_memory_mb: float
    """Highest resident memory of the process up to the stage's end."""
    reused: bool


class Sample(Part):
    """One prompt and what each condition answered: text to be escaped wherever it is shown."""

    example: str
    language: str
    modality: Modality
    harm: Harm
    prompt: str
    responses: dict[str, str]
    labels: dict[str, str]


class Summary(Part):
    """A run from end to end."""

    schema_version: int = SCHEMA_VERSION
    name: str
    created: str
    judge: str
    rule: str
    """Which verdict labels count as a hit of the attack."""
    model: ModelFacts
    data: DataFacts
    conditions: list[Condition]
    rates: list[RateRow]
    differences: list[DifferenceRow]
    gaps: list[GapRow] = Field(default_factory=list)
    neurons: NeuronFacts
    verification: Verification | None
    receipts: list[Receipt]
    claims: list[Claim]
    costs: list[StageCost]
    samples: list[Sample]
    seeds: dict[str, int]
    versions: dict[str, str]
    warnings: list[str] = Field(default_factory=list)
    config: dict[str, object]

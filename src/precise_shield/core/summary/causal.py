"""What changing the neurons does in detail: dose, rivals, cells, and deciding or writing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.records import Modality
from precise_shield.core.summary.base import Part


class PanelReading(Part):
    """What one state of the model makes of a few harmful and benign prompts."""

    log_odds: float
    """Refusal log-odds of the first token, in nats, mean over the harmful prompts."""
    refused: float | None = None
    """The same over prompts that the untouched model starts to refuse; null without any."""
    complied: float | None = None
    """The same over the other harmful prompts."""
    kl: float | None
    """KL(untouched ‖ state) in nats a token, mean over the benign answers; null without any."""
    perplexity: float | None
    """Of the benign answers, a token."""


class DosePoint(Part):
    """The neurons' activations times a factor: 0 suppresses, 1 is the untouched model."""

    factor: float
    chosen: PanelReading
    random: list[PanelReading]
    """The same factor on each matched random set."""


RivalKind = Literal["chosen", "random", "equal_importance", "remainder"]


class Rival(Part):
    """A kind of neuron set that is suppressed beside the chosen one, on the same prompts."""

    kind: RivalKind
    label: str
    neurons: int
    readings: list[PanelReading]
    """One a set."""
    p_value: float | None = None
    """(1 + #{set that lowers the log-odds at least as far as the chosen}) / (1 + sets), over
    refused prompts where there are any; null for a single set."""


class PanelFacts(Part):
    """The prompts that dose and rivals are read on."""

    harmful: int
    refused: int
    """Harmful prompts that the untouched model starts to refuse: log-odds above 0."""
    benign: int
    untouched: PanelReading


class MatrixCell(Part):
    """Suppressing the neurons of one set, read in one language and modality."""

    of: str
    """Name of the set, e.g. `MS:en`."""
    neurons: int
    language: str
    modality: Modality
    n: int
    base: float
    suppressed: float
    random: list[float]
    """The same readout under random sets matched to this set."""
    p_value: float
    p_holm: float | None = None
    """After Holm's correction over all cells of the matrix."""


ComponentName = Literal["refusal", "judging", "continuation", "copying", "apology"]
ComponentScope = Literal["prompt", "context", "response"]
Verdict = Literal["deciding", "writing", "both", "neither", "not testable"]


class Component(Part):
    """One readout under suppression at some positions, beside its random sets."""

    name: ComponentName
    scope: ComponentScope
    """Where the neurons were suppressed."""
    n: int
    base: float | None
    """Mean over the items, in nats; higher is more refusal, better judging, likelier text."""
    suppressed: float | None
    random: list[float]
    p_value: float | None
    """(1 + #{random sets that lower it at least as far}) / (1 + sets)."""
    p_holm: float | None = None
    """After Holm's correction over the sets that were tested."""
    share: tuple[float, float] | None = None
    """Of judging: accuracy without and with suppression. Of given texts: share of tokens that
    are the likeliest."""
    able: bool
    """The untouched model does this at all; otherwise nothing can be lost."""
    note: str = ""
    """Why it is not testable or was not measured."""


class Judged(Part):
    """Share of refusals among scored answers to harmful prompts, the set off at the prompt."""

    n: int
    """Scored answers with the set off."""
    unscored: int
    base: float | None
    suppressed: float | None
    random: list[float | None]


class Role(Part):
    """Whether a set decides to refuse or writes refusals, and what that rests on."""

    of: str
    neurons: int
    verdict: Verdict
    reason: str
    components: list[Component]
    judged: Judged | None = None
    """A check of the log-odds by whole answers; null where none were generated."""


class Causal(Part):
    """The causal check beyond its first readout; a part that was not run is empty."""

    edit: str = "zero"
    scope: str = "all"
    panel: PanelFacts | None = None
    dose: list[DosePoint] = Field(default_factory=list)
    rivals: list[Rival] = Field(default_factory=list)
    matrix: list[MatrixCell] = Field(default_factory=list)
    roles: list[Role] = Field(default_factory=list)

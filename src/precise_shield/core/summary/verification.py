"""What suppressing the neurons does, beside its controls."""

from __future__ import annotations

from pydantic import Field

from precise_shield.core.records import Modality
from precise_shield.core.summary.base import Part
from precise_shield.core.summary.causal import Causal


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
    refused: Readout | None = None
    """The same over the prompts that the untouched model begins to refuse (log-odds above 0);
    null where it refuses none. Elsewhere there is no refusal to take away."""
    imbalance: dict[str, float] = Field(default_factory=dict)
    """How far random sets lie from the chosen neurons in what they are matched on (`column norm`,
    `benign activation`), in standard deviations within a site; negative: they have less of it."""
    causal: Causal = Field(default_factory=Causal)
    """Dose, rivals, set by cell, and deciding or writing."""

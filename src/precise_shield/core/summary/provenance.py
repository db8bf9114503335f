"""Which model and data a run had, what it cost, and what it says of the papers' claims."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.records import Modality
from precise_shield.core.summary.base import Part


class ModelFacts(Part):
    path: str
    revision: str | None
    model_type: str
    fingerprint: str
    """Hash of the weights as loaded."""
    parameters: int | None
    """Null for a model that was asked through a server alone."""
    layers: int
    neurons: int
    """Units of all sites that were searched."""
    units: dict[str, int] = Field(default_factory=dict)
    """The same by tower and kind: `text.ffn`, `text.query`, ..."""
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


class StageCost(Part):
    stage: str
    seconds: float
    peak_memory_mb: float
    """Highest resident memory of the process up to the stage's end."""
    reused: bool


class Claim(Part):
    """A claim of the papers and what this run says of it."""

    claim: str
    source: str
    reported: str
    measured: str
    verdict: Literal["holds", "does not hold", "unclear", "not testable"]

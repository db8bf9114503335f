"""Whether the model's own representations tell harmful from benign requests."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.records import Modality
from precise_shield.core.summary.base import Part

ProbeContrast = Literal["ordinary", "matched"]
ProbeVerdict = Literal["apart", "not shown apart", "too few"]


class HeadroomRow(Part):
    """Linear probes of one place and contrast, layer by layer.

    Lists have one entry a layer: 0 is what the first block reads, the last what the head reads.
    """

    condition: str
    position: str
    contrast: ProbeContrast
    """Against which benign requests: topic-matched ones or all others."""
    language: str | None
    """null: mean over languages and modalities."""
    modality: Modality | None
    fitted: int
    """Rows the probe was fitted on."""
    fitted_on: Literal["the same kind", "all benign"]
    harmful: int
    """Groups it was tested on; none of them was fitted on."""
    benign: int
    auc: list[float | None]
    low: list[float | None]
    """95 % interval: Newcombe's, with groups as units; of the mean, from resampling groups."""
    high: list[float | None]
    shuffled: list[float | None]
    """Mean AUC of probes fitted on labels that were shuffled by group."""
    shuffled_high: list[float | None]
    """Their 95 % point."""
    best_layer: int | None
    p_value: float | None
    """(1 + #{shuffles whose best layer is as good}) / (1 + shuffles)."""
    verdict: ProbeVerdict


class Headroom(Part):
    """How far apart harmful and benign requests are, before and after tuning."""

    fit_split: str
    split: str
    shrinkage: float
    """Ridge penalty as a share of the mean eigenvalue of the fitted rows' covariance."""
    draws: int
    rows: list[HeadroomRow] = Field(default_factory=list)
    sentence: str
    """What the untouched model's rows say."""

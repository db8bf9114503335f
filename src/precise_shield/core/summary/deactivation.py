"""How well one pass stands in for switching every neuron off."""

from __future__ import annotations

from precise_shield.core.records import Harm, Modality
from precise_shield.core.summary.base import Part


class LocalAgreement(Part):
    """Exact deactivation and its local form in one cell."""

    exact: str
    """Name of the exact score, which says what is compared."""

    language: str
    modality: Modality
    harm: Harm
    examples: int
    """In which neurons were switched off; the local form read all of the cell."""

    rank: float | None
    """Spearman's correlation over a layer's units, mean over layers."""

    by_layer: dict[str, float | None]
    """The same site by site; null where one of the two is constant."""

    overall: float | None
    """Over the units of all layers together."""

    top_shared: float | None
    """Share of the exact form's top p of a layer that is in the local form's, mean over layers."""

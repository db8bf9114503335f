"""Effects over several neuron sets or training seeds."""

from __future__ import annotations

from precise_shield.core.summary.base import Part
from precise_shield.core.summary.rates import ConditionKind, Measure


class FactorRow(Part):
    """All runs of one kind minus all runs of another, prompts, sets and seeds drawn at random."""

    effect: ConditionKind
    control: ConditionKind
    measure: Measure
    difference: float | None
    low: float | None
    """95 % interval from resampling parallel groups, and runs on each side."""
    high: float | None
    runs: int
    """Runs of the effect: neuron sets or training seeds."""
    controls: int
    groups: int
    n: int
    unscored: int

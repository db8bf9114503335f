"""What an arm that was trained on a part of the data does in the rest."""

from __future__ import annotations

from pydantic import Field

from precise_shield.core.summary.base import Part
from precise_shield.core.summary.rates import Measure, TransferAxis


class TransferCell(Part):
    """One arm, asked in one value of an axis: an entry of the transfer matrix.

    Differences are paired, on the same prompts, with 95 % intervals from resampling parallel
    groups; fractions in [-1, 1], null where nothing could be compared.
    """

    condition: str
    axis: TransferAxis
    column: str | None
    """The language, modality or category that was asked in; null pools all that were unseen."""
    seen: bool
    """The arm was trained there, so that this is no transfer."""
    measure: Measure
    n: int
    """Prompts that are scored in the arm and in the untouched model."""
    unscored: int
    base: float | None
    """Share of hits of the untouched model on those prompts."""
    value: float | None
    difference: float | None
    """Arm minus untouched model."""
    low: float | None
    high: float | None
    random: list[float | None] = Field(default_factory=list)
    """The same difference for each control: random rows, trained on the same part of the data."""
    beyond: float | None = None
    """Arm minus its controls, all of them pooled; null without one."""
    beyond_low: float | None = None
    """95 % interval; with two controls or more, they are drawn as well as groups."""
    beyond_high: float | None = None
    p_value: float | None = None
    """Of `beyond`: signs of whole groups' changes drawn at random; with two controls or more, the
    larger of that and the p of the draws that make the interval."""
    p_holm: float | None = None
    """After Holm's correction over the cells of a measure and axis that are transfer."""


class Transfer(Part):
    """Trained on the row, asked in the column."""

    cells: list[TransferCell] = Field(default_factory=list)

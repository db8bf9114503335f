"""What is left of an alignment under cheap attacks on its weights."""

from __future__ import annotations

from pydantic import Field

from precise_shield.core.summary.base import Part


class AuditRow(Part):
    """Attack success after one attack, on the same harmful prompts."""

    attack: str
    """`none: untouched model`, `none: aligned model`, or what was done to the aligned one."""
    control: bool
    """It stands beside an attack: random neurons, or the same done to the untouched model."""
    hits: int
    n: int
    unscored: int
    value: float | None
    low: float | None
    """95 % interval from resampling parallel groups."""
    high: float | None
    change: float | None
    """Attack success minus that of the aligned model on the same prompts."""
    change_low: float | None
    change_high: float | None
    survives: float | None
    """Share of the alignment's reduction of attack success that is left; null where the alignment
    had no reduction beyond its interval."""
    survives_low: float | None = None
    """95 % interval from resampling parallel groups; draws without a reduction are left out."""
    survives_high: float | None = None


class Audit(Part):
    condition: str
    """The alignment that was attacked."""
    neurons: int
    rows: list[AuditRow] = Field(default_factory=list)
    restored: bool
    """Every weight has the hash it had before."""

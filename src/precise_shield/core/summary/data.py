"""What should be known of a run's data before its numbers are believed."""

from __future__ import annotations

from pydantic import Field

from precise_shield.core.records import Split
from precise_shield.core.summary.base import Part


class OverlapCount(Part):
    """Requests of one split that an earlier split asks too."""

    earlier: Split
    later: Split
    exact: int
    """Requests of `later` whose normalised words, or picture, are in `earlier`."""
    near: int
    """Further ones whose character n-grams are at least `data.overlap_threshold` similar."""
    of: int
    """Requests of `later`."""
    pairs: list[tuple[str, str]]
    """Up to three, as ids: of `earlier`, of `later`."""


class DataNotes(Part):
    """Everything about the data that is no count of rows."""

    overlaps: list[OverlapCount] = Field(default_factory=list)
    """None means that no request was found in two splits."""

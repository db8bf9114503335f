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


class Opening(Part):
    """One configuration that answered the test requests of this run."""

    folder: str
    """Name of the run's folder, beside this one or this one."""
    opened: str
    """When first, UTC."""
    config: str
    """First digits of the configuration's digest; its name does not count."""


class DataNotes(Part):
    """Everything about the data that is no count of rows."""

    overlaps: list[OverlapCount] = Field(default_factory=list)
    """None means that no request was found in two splits."""
    openings: list[Opening] = Field(default_factory=list)
    """Every configuration in this folder of runs that opened the same test requests."""

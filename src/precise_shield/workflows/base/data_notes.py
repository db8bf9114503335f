"""What a summary says of its data beside counts: repeated requests, and openings of the test."""

from __future__ import annotations

from precise_shield.core.summary import DataNotes
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.openings import openings


def data_notes(run: Run) -> DataNotes:
    """Gather them; cheap, from what was read already."""
    return DataNotes(
        overlaps=run.overlaps,
        openings=openings(run),
    )

"""Gather what explains the sets, once the conditions have been evaluated."""

from __future__ import annotations

from precise_shield.core.summary import Explained
from precise_shield.workflows.context import Run
from precise_shield.workflows.counts import count_against_attacks
from precise_shield.workflows.evaluate import Evaluation
from precise_shield.workflows.identify import Atlas


def explained(run: Run, atlas: Atlas, found: Evaluation) -> Explained:
    """Counts beside attack success."""
    return Explained(counts=count_against_attacks(run, atlas, found))

"""Gather what explains the sets, once the conditions have been evaluated."""

from __future__ import annotations

from precise_shield.core.summary import Explained
from precise_shield.workflows.arms import Arm
from precise_shield.workflows.context import Run
from precise_shield.workflows.counts import count_against_attacks
from precise_shield.workflows.evaluate import Evaluation
from precise_shield.workflows.headroom import headroom
from precise_shield.workflows.identify import Atlas


def explained(run: Run, atlas: Atlas, arms: list[Arm], found: Evaluation) -> Explained:
    """Counts beside attack success, and what the model tells apart before and after tuning."""
    return Explained(counts=count_against_attacks(run, atlas, found), headroom=headroom(run, arms))

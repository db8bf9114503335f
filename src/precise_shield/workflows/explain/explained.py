"""Gather what explains the sets, once the conditions have been evaluated."""

from __future__ import annotations

from precise_shield.core.summary import Explained
from precise_shield.workflows.align.arms import Arm
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.evaluate.stage import Evaluation
from precise_shield.workflows.explain.counts import count_against_attacks
from precise_shield.workflows.explain.dynamics import inter_layer, writes
from precise_shield.workflows.explain.headroom import headroom
from precise_shield.workflows.identify.stage import Atlas, identify


def before_tuning(run: Run) -> Explained:
    """What can be said of the untouched model alone."""
    atlas = identify(run)
    return Explained(
        headroom=headroom(run), influence=inter_layer(run, atlas), writes=writes(run, atlas)
    )


def explained(run: Run, atlas: Atlas, arms: list[Arm], found: Evaluation) -> Explained:
    """Counts beside attack success, and what the model tells apart before and after tuning."""
    return Explained(
        counts=count_against_attacks(run, atlas, found),
        headroom=headroom(run, arms),
        influence=inter_layer(run, atlas),
        writes=writes(run, atlas),
    )

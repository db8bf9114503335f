"""Train exactly the chosen neurons, and beside them the controls without which it is no claim."""

from __future__ import annotations

from precise_shield.workflows.arms import Arm, make
from precise_shield.workflows.context import Run
from precise_shield.workflows.damping import damping_arms
from precise_shield.workflows.identify import identify
from precise_shield.workflows.plans import plans
from precise_shield.workflows.search import settle


def align(run: Run) -> list[Arm]:
    """Train the chosen neurons, their controls, the further arms and the zero-shot arms.

    Every arm has the same rows of data, budget and settings, or the same validation search over
    them; the model is as it came afterwards.

    Raises:
        EmptyCellError: no training rows are left for an arm.
        ReceiptError: something outside the chosen rows moved.
    """
    atlas = identify(run)
    every = plans(run, atlas)
    settings = {name: found.settings for name, found in settle(run, every).items()}
    trained = [make(run, plan, settings[plan.like]) for plan in every]
    return [*trained, *damping_arms(run, atlas)]

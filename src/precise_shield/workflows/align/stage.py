"""Train exactly the chosen neurons, and beside them the controls without which it is no claim."""

from __future__ import annotations

from precise_shield.workflows.align.adopting import adopt
from precise_shield.workflows.align.arms import Arm, configured, make
from precise_shield.workflows.align.damping import damping_arms
from precise_shield.workflows.align.search import settle
from precise_shield.workflows.align.space import planned
from precise_shield.workflows.align.stopping import check_stop
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.stage import identify


def align(run: Run) -> list[Arm]:
    """Train the chosen neurons, their controls, the further arms and the zero-shot arms.

    Every arm has the same rows of data, budget and settings, or the same validation search over
    them; the model is as it came afterwards. Where p is searched, the run goes on with the p
    that was picked.

    Raises:
        EmptyCellError: no training rows are left for an arm, or an early stop has no prompts.
        ReceiptError: something outside the chosen rows moved.
    """
    check_stop(run)
    adopt(run)
    atlas, settled = identify(run), settle(run)
    trained = []
    for plan in planned(run, configured(run)).values():
        settings = settled[plan.like]
        trained.append(make(run, planned(run, settings)[plan.condition.name], settings))
    return [*trained, *damping_arms(run, atlas)]

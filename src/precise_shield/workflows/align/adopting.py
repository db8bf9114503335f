"""One set for everything: what a search over p picked is explained and verified as well."""

from __future__ import annotations

from precise_shield.workflows.align.search import search
from precise_shield.workflows.align.space import space_of
from precise_shield.workflows.base.context import Run


def adopt(run: Run) -> None:
    """Put the p that the search picked for the chosen neurons in the place of `identify.p`.

    Searches first where that was not done yet. A run that does not search p stays as it is; other
    arms keep the p that their own search picked.

    Raises:
        EmptyCellError, EmptySetError: as `search`.
    """
    if "p" not in space_of(run.config.align, "aligned"):
        return
    p, given = search(run)["aligned"].settings.p, run.config.identify
    if p == given.p:
        return
    run.reporter.say(f"p {p:g}, as the search picked, in the place of identify.p {given.p:g}")
    run.config = run.config.model_copy(update={"identify": given.model_copy(update={"p": p})})

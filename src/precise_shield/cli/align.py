"""Training, and the search for its settings."""

from __future__ import annotations

from typing import Annotated

import typer

from precise_shield.cli.app import app, show
from precise_shield.cli.options import StageOptions, grouped


@app.command()
@grouped
def align(
    options: StageOptions,
    search: Annotated[
        bool,
        typer.Option("--search", help="Search settings on validation data; print the fronts."),
    ] = False,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Trials an arm of --search; default 20.")
    ] = None,
) -> None:
    """Train exactly those neurons, their random control beside them, with a receipt each."""
    from precise_shield.workflows.align.searching import fronts, with_search
    from precise_shield.workflows.align.stage import align as work

    run = options.opened()
    if search or trials is not None:
        run.config = with_search(run.config, trials)
        show(fronts(run), as_json=options.as_json)
        return
    arms = [{**arm.receipt.model_dump(), "delta": str(arm.delta_path)} for arm in work(run)]
    show({"arms": arms}, as_json=options.as_json)

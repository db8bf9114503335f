"""Training, and the search for its settings."""

from __future__ import annotations

from typing import Annotated

import typer

from precise_shield.cli.app import (
    ConfigArg,
    Device,
    Dtype,
    Json,
    Limit,
    Out,
    Quiet,
    Set,
    app,
    opened,
    show,
)


@app.command()
def align(
    config: ConfigArg,
    search: Annotated[
        bool,
        typer.Option("--search", help="Search settings on validation data; print the fronts."),
    ] = False,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Trials an arm of --search; default 20.")
    ] = None,
    out: Out = None,
    changes: Set = None,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train exactly those neurons, their random control beside them, with a receipt each."""
    from precise_shield.workflows.align.searching import fronts, with_search
    from precise_shield.workflows.align.stage import align as work

    with opened(config, out, changes, limit, device, dtype, quiet=quiet) as run:
        if search or trials is not None:
            run.config = with_search(run.config, trials)
            show(fronts(run), as_json=as_json)
            return
        arms = [{**arm.receipt.model_dump(), "delta": str(arm.delta_path)} for arm in work(run)]
        show({"arms": arms}, as_json=as_json)

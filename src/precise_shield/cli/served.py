"""Evaluating models that are served elsewhere."""

from __future__ import annotations

from precise_shield.cli.app import (
    ConfigArg,
    Json,
    Limit,
    Out,
    Quiet,
    Set,
    app,
    opened,
    show_summary,
)


@app.command()
def served(
    config: ConfigArg,
    out: Out = None,
    changes: Set = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer, judge and report through `evaluate.servers` alone: no weights are loaded."""
    from precise_shield.workflows.served_run import served_run

    with opened(config, out, changes, limit, None, None, quiet=quiet) as run:
        show_summary(served_run(run), run.folder, as_json=as_json)

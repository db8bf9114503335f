"""Evaluating models that are served elsewhere."""

from __future__ import annotations

from precise_shield.cli.app import app, show_summary
from precise_shield.cli.options import RunOptions, grouped


@app.command()
@grouped
def served(options: RunOptions) -> None:
    """Answer, judge and report through `evaluate.servers` alone: no weights are loaded."""
    from precise_shield.workflows.served_run import served_run

    run = options.opened()
    show_summary(served_run(run), run.folder, as_json=options.as_json)

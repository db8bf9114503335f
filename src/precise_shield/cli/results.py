"""A finished run in the formats that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precise_shield.cli.app import app, show
from precise_shield.cli.options import EvaluatedRun, Json


@app.command()
def results(
    folder: EvaluatedRun,
    out: Annotated[
        Path,
        typer.Argument(
            help="File to write: .jsonl or .parquet (answers with verdicts), .json (as lm-eval),"
            " .eval (inspect log), .csv (leaderboard)."
        ),
    ],
    condition: Annotated[
        str | None, typer.Option("--condition", help="Of .json and .eval; default aligned.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it is there.")
    ] = False,
) -> None:
    """Write answers, verdicts and figures in a format of the field."""
    from precise_shield.workflows.handing.results import export_results

    typer.echo(f"wrote {export_results(folder, out, condition, overwrite=overwrite)}")


@app.command()
def pool(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of runs that differ in their seed.")
    ],
    as_json: Json = False,
) -> None:
    """Effects over several runs, their seeds and neuron sets drawn at random like the prompts."""
    from precise_shield.workflows.evaluate.factors import pool as work

    show([row.model_dump(mode="json") for row in work(folders)], as_json=as_json)

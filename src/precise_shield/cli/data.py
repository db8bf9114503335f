"""Commands on data: look at them before a run does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precise_shield.cli.app import Json, app, show
from precise_shield.core.errors import UserError

data_app = typer.Typer(no_args_is_help=True, help="Look at data before a run does.")
app.add_typer(data_app, name="data")


@data_app.command("check")
def data_check(
    paths: Annotated[list[Path], typer.Argument(help="Manifests: .jsonl, .csv or .parquet.")],
    overlap: Annotated[
        float,
        typer.Option("--overlap", min=0.01, max=1, help="Similarity from which requests repeat."),
    ] = 0.8,
    as_json: Json = False,
) -> None:
    """List every problem of manifests with its row, and requests that are in two splits."""
    from precise_shield.workflows.data import check

    found = check(paths, overlap)
    if as_json:
        show(found.plain(), as_json=True)
    else:
        for line in found.lines():
            typer.echo(line)
    if found.problems:
        raise UserError(f"{len(found.problems)} problems in {', '.join(map(str, paths))}.")


@data_app.command("schema")
def data_schema() -> None:
    """Print the JSON Schema of a manifest's row."""
    from precise_shield.data.manifest import schema_text

    typer.echo(schema_text().rstrip())

"""Commands on data: look at them before a run does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precise_shield.cli.app import app, show
from precise_shield.cli.options import Json
from precise_shield.core.errors import ConfigError, UserError

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
    from precise_shield.workflows.base.data import check, problems_of

    found = check(paths, overlap)
    if as_json:
        show(found.plain(), as_json=True)
    else:
        for line in found.lines():
            typer.echo(line)
    if found.problems:
        raise UserError(f"{problems_of(found)} in {', '.join(map(str, paths))}.")


@data_app.command("schema")
def data_schema() -> None:
    """Print the JSON Schema of a manifest's row."""
    from precise_shield.data.manifest import schema_text

    typer.echo(schema_text().rstrip())


@data_app.command("transform")
def data_transform(
    name: Annotated[str, typer.Argument(help="`precise-shield list` shows them.")],
    source: Annotated[Path, typer.Argument(help="A manifest.")],
    out: Annotated[Path, typer.Argument(help="A new .jsonl; pictures go beside it.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option: size=40, languages=[en,sw], fonts={thai: F.ttf}."),
    ] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Leave bad rows out, counted.")] = False,
) -> None:
    """Write a manifest's requests in another dress: typography, figstep, mixed, and more."""
    from precise_shield.workflows.base.dressing import transform_file

    done = transform_file(name, source, out, pairs(changes or []), "skip" if skip else "stop")
    typer.echo(f"{out}: {len(done.examples)} rows, {done.dropped_rows} left out")


def pairs(changes: list[str]) -> dict[str, object]:
    """Read `key=value`, the value as YAML.

    Raises:
        ConfigError: one is no such pair.
    """
    import yaml

    found: dict[str, object] = {}
    for change in changes:
        key, there, value = change.partition("=")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {change!r}: the value is no YAML ({error}).") from error
        if not there or not key:
            raise ConfigError(f"--set {change!r} must look like key=value.")
    return found

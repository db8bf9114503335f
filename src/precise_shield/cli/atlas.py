"""Atlases: the sets of a model as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precise_shield.cli.app import Json, app, show


@app.command()
def atlas(
    path: Annotated[Path, typer.Argument(help="An atlas.safetensors, or its folder.")],
    beside: Annotated[
        Path | None, typer.Argument(help="Another one of the same architecture, to compare.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what an atlas holds, or what two atlases share, beside chance."""
    from precise_shield.workflows.atlases import compared, described

    show(described(path) if beside is None else compared(path, beside), as_json=as_json)

"""Atlases: the sets of a model as a file."""

from __future__ import annotations

from typing import Annotated

import typer

from precise_shield.cli.app import app, show
from precise_shield.cli.options import Json


@app.command()
def atlas(
    path: Annotated[
        str, typer.Argument(help="An atlas.safetensors, its folder, or owner/name on the hub.")
    ],
    beside: Annotated[
        str | None, typer.Argument(help="Another one of the same architecture, to compare.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what an atlas holds, or what two atlases share, beside chance."""
    from precise_shield.workflows.explain.atlases import compared, described
    from precise_shield.workflows.handing.hub import fetched_atlas

    first = fetched_atlas(path)
    found = described(first) if beside is None else compared(first, fetched_atlas(beside))
    show(found, as_json=as_json)

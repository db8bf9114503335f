"""Push an export or atlas to the hub, when asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precise_shield.cli.app import app
from precise_shield.cli.options import Public, Yes


@app.command()
def push(
    path: Annotated[Path, typer.Argument(help="What `export` or `identify` wrote.")],
    repo: Annotated[str, typer.Argument(help="owner/name on the hub.")],
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Its run's folder: hold its gate against what that stored."),
    ] = None,
    public: Public = False,
    yes: Yes = False,
) -> None:
    """Upload a model, adapter, delta or atlas with its card, if it passed its gate."""
    upload(path, repo, public=public, yes=yes, run=run)


def upload(path: Path, repo: str, *, public: bool, yes: bool, run: Path | None) -> None:
    """Say what would be uploaded, ask, and upload it."""
    from precise_shield.workflows.handing.hub import pushing, send

    with pushing(path, repo, run) as what:
        size = sum(what.files.values()) / 2**20
        seen = "public" if public else "private"
        said = f"push {what.kind}, {len(what.files)} files, {size:.1f} MiB, to {repo} ({seen})"
        if not yes and not typer.confirm(f"{said}?", err=True):
            typer.echo("nothing was pushed")
            return
        typer.echo(f"pushed {send(what, public=public)}")

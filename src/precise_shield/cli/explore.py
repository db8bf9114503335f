"""Browse a finished run's neurons."""

from __future__ import annotations

from typing import Annotated

import typer

from precise_shield.cli.app import app
from precise_shield.cli.options import FinishedRun


@app.command()
def explore(
    folder: FinishedRun,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")
    ] = 0,
) -> None:
    """Serve pages, to this machine alone, that show a run's neurons one by one; Ctrl-C ends it."""
    from precise_shield.workflows.explore import LOOPBACK, explorer

    with explorer(folder, port) as server:
        typer.echo(f"http://{LOOPBACK}:{server.server_address[1]}/   (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("ended", err=True)

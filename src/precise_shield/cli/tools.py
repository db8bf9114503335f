"""What is there before and after a run: configurations, models, data, pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precise_shield.cli.app import Device, Dtype, Json, app, show


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder with a summary.json.")],
    beside: Annotated[
        Path | None, typer.Argument(help="Another run folder, shown side by side.")
    ] = None,
) -> None:
    """Write the page of a finished run again, alone or beside another run."""
    from precise_shield.workflows.run import write_pages

    for path in write_pages(folder, beside):
        typer.echo(path)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("precise-shield.yaml"),
    model: Annotated[str, typer.Option("--model", help="Hub id, folder or `sandbox`.")] = "sandbox",
    manifest: Annotated[
        str | None, typer.Option("--manifest", help="Your data; default the embedded world.")
    ] = None,
) -> None:
    """Write a commented configuration."""
    from precise_shield.workflows.starter import init as work

    typer.echo(f"wrote {work(path, model=model, manifest=manifest)}")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Show the model families, scores, judges, rules and datasets that can be named."""
    from precise_shield.workflows.starter import known

    show(known(), as_json=as_json)


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="Hub id, folder, .gguf file or `sandbox`.")],
    gguf_file: Annotated[str | None, typer.Option("--gguf-file")] = None,
    revision: Annotated[str | None, typer.Option("--revision")] = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code")] = False,
    as_json: Json = False,
) -> None:
    """Say what the tool sees in a model before anything runs."""
    from precise_shield.workflows.doctor import doctor as work
    from precise_shield.workflows.sections.model import ModelSection

    given = {"device": device, "dtype": dtype, "gguf_file": gguf_file, "revision": revision}
    section = ModelSection.model_validate(
        {"path": model, "trust_remote_code": trust_remote_code}
        | {key: value for key, value in given.items() if value is not None}
    )
    show(work(section), as_json=as_json)

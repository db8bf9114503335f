"""What is there before and after a run: configurations, models, data, pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precise_shield.cli.app import app, show
from precise_shield.cli.launch import launch
from precise_shield.cli.options import Json, Limit, ModelOptions, Set, grouped, read_config
from precise_shield.core.errors import ConfigError


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder with a summary.json.")],
    beside: Annotated[
        Path | None, typer.Argument(help="Another run folder, shown side by side.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Every figure as PNG too.")] = False,
) -> None:
    """Write the page of a finished run again, alone or beside another run."""
    from precise_shield.workflows.run import write_pages

    for path in write_pages(folder, beside, png=png):
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
@grouped
def doctor(
    model: Annotated[
        str, typer.Argument(help="Hub id, folder, .gguf file, `sandbox`, or a CONFIG.")
    ],
    options: ModelOptions,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Time real batches of a CONFIG and plan time and memory."),
    ] = False,
    changes: Set = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Say what the tool sees in a model before anything runs, and how long a CONFIG would take."""
    given = [*(changes or []), *options.as_changes()]
    if probe:
        if options.gguf_file or options.revision or options.trust_remote_code:
            raise ConfigError(
                "--probe takes a CONFIG, which names its model; set model.gguf_file,"
                " model.revision or model.trust_remote_code there, or with --set."
            )
        from precise_shield.workflows.plan.timeplan import lines
        from precise_shield.workflows.plan.timeplan import probe as timed

        found = timed(read_config(Path(model), given, limit))
        if as_json:
            show(found, as_json=True)
        elif launch().speaks:
            typer.echo("\n".join(lines(found)))
        return
    from precise_shield.workflows.plan.doctor import doctor as work

    if Path(model).suffix in (".yaml", ".yml"):
        section = read_config(Path(model), given, limit).model
        if not as_json and launch().speaks:
            typer.echo("add --probe to time this CONFIG's stages and see what they keep", err=True)
    elif changes or limit is not None:
        raise ConfigError("--set and --limit change a CONFIG; give one.")
    else:
        section = options.section(model)
    show(work(section), as_json=as_json)

"""The command line: parse, call one workflow, print what it returns.

Heavy imports stay inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from precise_shield.core.errors import UserError

if TYPE_CHECKING:
    from precise_shield.workflows.context import Run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Find, explain and strengthen the neurons that carry safety in language and"
    " vision-language models.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data before a run does.")
app.add_typer(data_app, name="data")

ConfigArg = Annotated[Path, typer.Argument(help="YAML configuration; `init` writes one.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/<name>.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key: section.key=value. Repeatable.")
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Keep this many groups of a split and harm.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and stop.")]
Device = Annotated[str | None, typer.Option("--device", help="cuda, mps, cpu or cuda:1.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")]


def main() -> None:
    """Entry point. Exit codes: 0 well, 2 a mistake the user can mend, 130 interrupted."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted: finished stages are kept; the same command goes on.", err=True)
        sys.exit(130)


@contextmanager
def _run(
    config: Path,
    out: Path | None,
    changes: list[str] | None,
    limit: int | None,
    device: str | None,
    dtype: str | None,
    *,
    quiet: bool,
) -> Iterator[Run]:
    from precise_shield.workflows.config import load_config
    from precise_shield.workflows.context import started

    extra = list(changes or [])
    extra += [f"model.device={device}"] if device else []
    extra += [f"model.dtype={dtype}"] if dtype else []
    read = load_config(config, extra)
    if limit is not None:
        for source in read.data.sources:
            source.limit = limit
    yield started(read, out, quiet=quiet)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("runs/demo"),
    full: Annotated[bool, typer.Option("--full", help="More seeds and transfer rows.")] = False,
    negative: Annotated[
        bool, typer.Option("--negative", help="The world in which nothing is shared.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; 1 on a busy machine.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run everything on the embedded vision-language model: offline, on the CPU."""
    from precise_shield.workflows.demo import demo as work

    summary = work(out, full=full, negative=negative, threads=threads, quiet=quiet)
    _finish(summary, out, as_json=as_json)


@app.command()
def run(
    config: ConfigArg,
    out: Out = None,
    changes: Set = None,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Identify, explain, verify, align, evaluate and report; goes on where it was stopped."""
    from precise_shield.workflows.run import plan, run_all

    with _run(config, out, changes, limit, device, dtype, quiet=quiet) as work:
        if dry_run:
            typer.echo("\n".join(plan(work)))
            return
        _finish(run_all(work), work.folder, as_json=as_json)


@app.command()
def identify(
    config: ConfigArg,
    out: Out = None,
    changes: Set = None,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find safety neurons per language and modality."""
    from precise_shield.workflows.identify import identify as work

    with _run(config, out, changes, limit, device, dtype, quiet=quiet) as state:
        atlas = work(state)
        sizes = {name: len(neurons) for name, neurons in atlas.sets.items()}
        _print({"chosen": atlas.chosen, "sizes": sizes}, as_json=as_json)


@app.command()
def explain(
    config: ConfigArg,
    out: Out = None,
    changes: Set = None,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Where the neurons sit, what languages and modalities share, and how sure that is."""
    from precise_shield.workflows.explain import explain as work

    with _run(config, out, changes, limit, device, dtype, quiet=quiet) as state:
        _print(work(state).model_dump(mode="json"), as_json=as_json)


@app.command()
def verify(
    config: ConfigArg,
    out: Out = None,
    changes: Set = None,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Suppress the neurons beside matched random ones. In memory; nothing is saved."""
    from precise_shield.workflows.verify import verify as work

    with _run(config, out, changes, limit, device, dtype, quiet=quiet) as state:
        _print(work(state).model_dump(mode="json"), as_json=as_json)


@app.command()
def align(
    config: ConfigArg,
    out: Out = None,
    changes: Set = None,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train exactly those neurons, their random control beside them, with a receipt each."""
    from precise_shield.workflows.align import align as work

    with _run(config, out, changes, limit, device, dtype, quiet=quiet) as state:
        arms = work(state)
        rows = [{**arm.receipt.model_dump(), "delta": str(arm.delta_path)} for arm in arms]
        _print({"arms": rows}, as_json=as_json)


@app.command()
def evaluate(
    config: ConfigArg,
    out: Out = None,
    changes: Set = None,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer and judge the test prompts in every condition."""
    from precise_shield.workflows.evaluate import evaluate as work

    with _run(config, out, changes, limit, device, dtype, quiet=quiet) as state:
        rows = [row.model_dump(mode="json") for row in work(state).rates]
        _print({"rates": rows}, as_json=as_json)


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

    _print(known(), as_json=as_json)


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
    from precise_shield.workflows.config import ModelSection
    from precise_shield.workflows.doctor import doctor as work

    given = {"device": device, "dtype": dtype, "gguf_file": gguf_file, "revision": revision}
    section = ModelSection.model_validate(
        {"path": model, "trust_remote_code": trust_remote_code}
        | {key: value for key, value in given.items() if value is not None}
    )
    _print(work(section), as_json=as_json)


@data_app.command("check")
def data_check(
    path: Annotated[Path, typer.Argument(help="A manifest: JSON Lines or CSV.")],
) -> None:
    """List every problem of a manifest with its row."""
    from precise_shield.data.manifest import check

    problems = check(path)
    for problem in problems:
        typer.echo(str(problem))
    if problems:
        raise UserError(f"{len(problems)} problems in {path}.")
    typer.echo(f"{path}: no problems")


def _finish(summary: object, folder: Path, *, as_json: bool) -> None:
    from precise_shield.core.summary import Summary
    from precise_shield.report.terminal import summary_lines, summary_renderables

    assert isinstance(summary, Summary)
    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
        return
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(summary_renderables(summary))
    else:
        typer.echo("\n".join(summary_lines(summary)))
    typer.echo(f"\nreport:  {folder / 'report.html'}\nsummary: {folder / 'summary.json'}")


def _print(value: object, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False, indent=1))
        return
    import yaml

    typer.echo(yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=100).rstrip())

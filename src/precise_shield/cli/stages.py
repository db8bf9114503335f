"""The stages of a run, each a command with the same options."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from precise_shield.cli.app import app, show, show_summary
from precise_shield.cli.launch import launch
from precise_shield.cli.options import DryRun, Json, Quiet, StageOptions, grouped

if TYPE_CHECKING:
    from precise_shield.workflows.base.context import Run


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
    show_summary(summary, out, as_json=as_json)


@app.command()
@grouped
def run(options: StageOptions, dry_run: DryRun = False) -> None:
    """Identify, explain, verify, align, evaluate and report; goes on where it was stopped."""
    from precise_shield.workflows.run import plan, run_all

    work = options.opened()
    if dry_run:
        lines = plan(work)
        if launch().speaks:
            typer.echo("\n".join(lines))
        return
    show_summary(run_all(work), work.folder, as_json=options.as_json)


Found = tuple[object, list[str]]
"""What a stage found: as plain data for programs, and as lines for people."""


def stage(work: Callable[[Run], Found]) -> None:
    """Register a command that does one stage and prints what `work` returns.

    The command has the function's name and its docstring as help.
    """

    def command(options: StageOptions) -> None:
        plain, lines = work(options.opened())
        if options.as_json:
            show(plain, as_json=True)
        elif launch().speaks:
            typer.echo("\n".join(lines))

    app.command(work.__name__, help=work.__doc__)(grouped(command))


@app.command()
@grouped
def identify(
    options: StageOptions,
    from_stats: Annotated[
        list[Path] | None,
        typer.Option(
            "--from-stats",
            help="A stats.safetensors to choose from, without the model. Repeatable, one a pass.",
        ),
    ] = None,
) -> None:
    """Find safety neurons per language and modality, and write them as an atlas."""
    from precise_shield.workflows.identify.stage import identified, read_atlas

    named = json.dumps([str(path) for path in from_stats or []])
    given = [f"identify.from_stats={named}"] if from_stats else []
    run = options.opened(*given)
    done = identified(run)
    atlas = read_atlas(done)
    sizes = {name: len(neurons) for name, neurons in atlas.sets.items()}
    where = str(done.path("atlas.safetensors"))
    show({"chosen": atlas.chosen, "sizes": sizes, "atlas": where}, as_json=options.as_json)


@stage
def explain(run: Run) -> Found:
    """Where the neurons sit, what languages and modalities share, and how sure that is."""
    from precise_shield.report.pages.stages import neuron_lines
    from precise_shield.workflows.align.adopting import adopt
    from precise_shield.workflows.explain.explained import before_tuning
    from precise_shield.workflows.explain.stage import explain as work

    adopt(run)
    facts, more = work(run), before_tuning(run)
    plain = {**facts.model_dump(mode="json"), **more.model_dump(mode="json", exclude={"counts"})}
    return plain, neuron_lines(facts)


@stage
def verify(run: Run) -> Found:
    """Suppress the neurons beside matched random ones. In memory; nothing is saved."""
    from precise_shield.report.pages.stages import causal_lines
    from precise_shield.workflows.align.adopting import adopt
    from precise_shield.workflows.verify.stage import verify as work

    adopt(run)
    found = work(run)
    return found.model_dump(mode="json"), causal_lines(found)


@stage
def evaluate(run: Run) -> Found:
    """Answer and judge the test prompts in every condition."""
    from precise_shield.report.pages.stages import rate_lines
    from precise_shield.workflows.evaluate.stage import evaluate as work

    rates = work(run).rates
    return {"rates": [row.model_dump(mode="json") for row in rates]}, rate_lines(rates)

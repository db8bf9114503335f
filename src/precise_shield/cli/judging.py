"""Judging a finished run again: with another judge, or by people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precise_shield.cli.app import app, show
from precise_shield.cli.options import EvaluatedRun, Json, Quiet, Set

judge_app = typer.Typer(
    no_args_is_help=True, help="Judge a finished run again. Nothing is generated."
)
app.add_typer(judge_app, name="judge")


@judge_app.command("again")
def again(
    folder: EvaluatedRun,
    names: Annotated[list[str], typer.Argument(help="Judges; `list` shows them.")],
    changes: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge the stored answers with other judges, and measure agreement with those before."""
    from precise_shield.workflows.answer.judges import judge_again

    judging = judge_again(folder, names, changes or [], quiet=quiet)
    show(judging.model_dump(mode="json", include={"primary", "agreement"}), as_json=as_json)


@judge_app.command("sheet")
def sheet(
    folder: EvaluatedRun,
    out: Annotated[Path, typer.Argument(help="CSV file to write.")],
    size: Annotated[int, typer.Option("--size", min=1, help="Answers to label.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
) -> None:
    """Write answers to label by hand; the sheet does not say which condition gave them."""
    from precise_shield.workflows.answer.sheet import write_sheet

    typer.echo(f"wrote {write_sheet(folder, out, size=size, seed=seed)} answers to {out}")


@judge_app.command("labels")
def labels(
    folder: EvaluatedRun,
    path: Annotated[Path, typer.Argument(help="The filled sheet.")],
    name: Annotated[str, typer.Option("--name", help="Who labelled.")] = "human",
    as_json: Json = False,
) -> None:
    """Take a filled sheet in, and measure agreement with every judge."""
    from precise_shield.workflows.answer.sheet import read_labels, scores

    show({"agreement": list(scores(read_labels(folder, path, name=name), name))}, as_json=as_json)


@judge_app.command("error")
def error(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs with answers.")],
    labels: Annotated[
        Path | None, typer.Option("--labels", help="CSV: key, language, harm, label; no texts.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Whose labels in the run: `judge labels`.")
    ] = None,
    judge: Annotated[str, typer.Option("--judge", help="Whose errors.")] = "refusal_phrases",
    half: Annotated[str | None, typer.Option("--half", help="`fit` or `report` alone.")] = None,
    as_json: Json = False,
) -> None:
    """Missed and false refusals of a judge by language and arm, against given labels."""
    from precise_shield.core.errors import ConfigError
    from precise_shield.workflows.answer.judge_error import (
        error_table,
        errors_against,
        judge_errors,
    )

    if (labels is None) == (against is None) or half not in (None, "fit", "report"):
        raise ConfigError("give one of --labels FILE and --against NAME; --half is fit or report.")
    if labels is not None:
        found = judge_errors(folders, labels, judge, half)
    elif len(folders) > 1:
        raise ConfigError("--against reads the labels of one run; give one folder.")
    else:
        found = errors_against(folders[0], str(against), judge)
    if as_json:
        show(found, as_json=True)
    else:
        typer.echo(error_table(found).rstrip())

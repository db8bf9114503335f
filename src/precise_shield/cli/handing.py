"""Hand an alignment on, put it in, take it out, and check what its receipt says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precise_shield.cli.app import app, show
from precise_shield.cli.hub import upload
from precise_shield.cli.options import (
    Alignment,
    Device,
    FinishedRun,
    Force,
    Json,
    ModelArg,
    ModelOptions,
    NewFolder,
    Public,
    Quiet,
    Yes,
    grouped,
)
from precise_shield.core.errors import ConfigError

receipt_app = typer.Typer(no_args_is_help=True, help="Prove what an alignment changed.")
app.add_typer(receipt_app, name="receipt")

DeltaArg = Annotated[
    str, typer.Argument(help="Delta that `export --delta` wrote: a file, or owner/name on the hub.")
]
Beside = Annotated[
    list[Path] | None,
    typer.Option("--with", help="Another delta that is in the result too. Repeatable."),
]


@app.command()
def export(
    folder: FinishedRun,
    out: Annotated[Path, typer.Argument(help="What to write; it must not exist.")],
    peft: Annotated[bool, typer.Option("--peft", help="A LoRA adapter for stock PEFT.")] = False,
    delta: Annotated[bool, typer.Option("--delta", help="The changed rows, old and new.")] = False,
    low_rank: Annotated[
        bool, typer.Option("--low-rank", help="The LoRA factors alone: smallest, no undo.")
    ] = False,
    condition: Alignment = "aligned",
    device: Device = None,
    force: Force = False,
    push: Annotated[
        str | None, typer.Option("--push", help="owner/name: upload it too, after asking.")
    ] = None,
    public: Public = False,
    yes: Yes = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the strengthened model, or what makes it, if it passes the run's gate."""
    from precise_shield.workflows.handing.export import Kind
    from precise_shield.workflows.handing.export import export as work

    flags: dict[Kind, bool] = {"peft": peft, "delta": delta, "low_rank": low_rank}
    asked = [kind for kind, given in flags.items() if given]
    if len(asked) > 1:
        raise ConfigError("give at most one of --peft, --delta and --low-rank.")
    kind: Kind = asked[0] if asked else "merged"
    done = work(
        folder, out, kind=kind, condition=condition, device=device, force=force, quiet=quiet
    )
    limits = {each.name: f"{'kept' if each.kept else 'broken'}" for each in done.gate.limits}
    show({"wrote": str(done.path), "kind": done.kind, "gate": limits}, as_json=as_json)
    if push is not None:
        upload(out, push, public=public, yes=yes, run=folder)


@app.command()
@grouped
def apply(
    delta: DeltaArg,
    model: ModelArg,
    out: NewFolder,
    options: ModelOptions,
    beside: Beside = None,
    force: Force = False,
) -> None:
    """Write MODEL with a delta's rows put in, bit for bit."""
    from precise_shield.workflows.handing.deltas import apply as work
    from precise_shield.workflows.handing.hub import fetched_delta

    section = options.section(model)
    typer.echo(
        f"wrote {work(fetched_delta(delta), section, out, beside=beside or [], force=force)}"
    )


@app.command()
@grouped
def undo(
    delta: DeltaArg,
    model: ModelArg,
    out: NewFolder,
    options: ModelOptions,
    beside: Beside = None,
) -> None:
    """Write MODEL with a delta's rows taken out: its base model, bit for bit."""
    from precise_shield.workflows.handing.deltas import undo as work
    from precise_shield.workflows.handing.hub import fetched_delta

    section = options.section(model)
    typer.echo(f"wrote {work(fetched_delta(delta), section, out, beside=beside or [])}")


@receipt_app.command("check")
@grouped
def receipt_check(
    path: Annotated[
        Path, typer.Argument(help="Merged folder, adapter folder, delta file or run folder.")
    ],
    options: ModelOptions,
    model: Annotated[
        str | None, typer.Argument(help="Its base model, or the merged one for a delta.")
    ] = None,
) -> None:
    """Check on disk that an alignment changed its neurons' weights and nothing else."""
    from precise_shield.workflows.handing.receipts import receipt_check as work

    given = None if model is None else options.section(model)
    for line in work(path, given):
        typer.echo(line)

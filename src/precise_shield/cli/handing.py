"""Hand an alignment on, put it in, take it out, and check what its receipt says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precise_shield.cli.app import (
    Device,
    Dtype,
    GgufFile,
    Json,
    ModelArg,
    Quiet,
    Revision,
    Trust,
    app,
    model_section,
    show,
)
from precise_shield.cli.hub import Public, Yes, upload
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
NewFolder = Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")]


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished `run`.")],
    out: Annotated[Path, typer.Argument(help="What to write; it must not exist.")],
    peft: Annotated[bool, typer.Option("--peft", help="A LoRA adapter for stock PEFT.")] = False,
    delta: Annotated[bool, typer.Option("--delta", help="The changed rows, old and new.")] = False,
    low_rank: Annotated[
        bool, typer.Option("--low-rank", help="The LoRA factors alone: smallest, no undo.")
    ] = False,
    condition: Annotated[
        str, typer.Option("--condition", help="Which alignment of the run.")
    ] = "aligned",
    device: Device = None,
    force: Annotated[
        bool, typer.Option("--force", help="Although a limit is broken; never a weaker model.")
    ] = False,
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
def apply(
    delta: DeltaArg,
    model: ModelArg,
    out: NewFolder,
    beside: Beside = None,
    gguf_file: GgufFile = None,
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    force: Annotated[
        bool, typer.Option("--force", help="Although a limit is broken; never a weaker model.")
    ] = False,
) -> None:
    """Write MODEL with a delta's rows put in, bit for bit."""
    from precise_shield.workflows.handing.deltas import apply as work
    from precise_shield.workflows.handing.hub import fetched_delta

    section = model_section(
        model,
        trust_remote_code=trust_remote_code,
        gguf_file=gguf_file,
        revision=revision,
        device=device,
        dtype=dtype,
    )
    typer.echo(
        f"wrote {work(fetched_delta(delta), section, out, beside=beside or [], force=force)}"
    )


@app.command()
def undo(
    delta: DeltaArg,
    model: ModelArg,
    out: NewFolder,
    beside: Beside = None,
    gguf_file: GgufFile = None,
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
) -> None:
    """Write MODEL with a delta's rows taken out: its base model, bit for bit."""
    from precise_shield.workflows.handing.deltas import undo as work
    from precise_shield.workflows.handing.hub import fetched_delta

    section = model_section(
        model,
        trust_remote_code=trust_remote_code,
        gguf_file=gguf_file,
        revision=revision,
        device=device,
        dtype=dtype,
    )
    typer.echo(f"wrote {work(fetched_delta(delta), section, out, beside=beside or [])}")


@receipt_app.command("check")
def receipt_check(
    path: Annotated[
        Path, typer.Argument(help="Merged folder, adapter folder, delta file or run folder.")
    ],
    model: Annotated[
        str | None, typer.Argument(help="Its base model, or the merged one for a delta.")
    ] = None,
    gguf_file: GgufFile = None,
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
) -> None:
    """Check on disk that an alignment changed its neurons' weights and nothing else."""
    from precise_shield.workflows.handing.deltas import receipt_check as work

    given = None
    if model is not None:
        given = model_section(
            model,
            trust_remote_code=trust_remote_code,
            gguf_file=gguf_file,
            revision=revision,
            device=device,
            dtype=dtype,
        )
    for line in work(path, given):
        typer.echo(line)

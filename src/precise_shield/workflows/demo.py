"""The main job on the embedded model: what a newcomer sees first."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from precise_shield.core.summary import Summary
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.run import run_all


def demo(
    out: Path,
    *,
    full: bool = False,
    negative: bool = False,
    threads: int | None = None,
    quiet: bool = False,
) -> Summary:
    """Run every stage on the embedded vision-language model, offline and on the CPU.

    Args:
        out: run folder.
        full: three random-row seeds, three random suppressions and more zero-shot arms.
        negative: the world in which languages share nothing, where nothing may be found shared.
        threads: CPU threads; one is faster than more where other processes keep a core busy.
        quiet: no progress.
    """
    name = "negative.yaml" if negative else "full.yaml" if full else "demo.yaml"
    text = resources.files("precise_shield.workflows").joinpath("demos", name).read_text("utf-8")
    changes = [] if threads is None else [f"model.threads={threads}"]
    return run_all(started(parse_config(text, changes, origin=name), out, quiet=quiet))

"""The main job on the embedded model: what a newcomer sees first."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from precise_shield.core.summary import Summary
from precise_shield.workflows.config import parse_config
from precise_shield.workflows.context import started
from precise_shield.workflows.run import run_all


def demo(out: Path, *, full: bool = False, negative: bool = False, quiet: bool = False) -> Summary:
    """Run every stage on the embedded vision-language model, offline and on the CPU.

    Args:
        out: run folder.
        full: three random-row seeds, three random suppressions and more zero-shot arms.
        negative: the world in which languages share nothing, where nothing may be found shared.
        quiet: no progress.
    """
    name = "negative.yaml" if negative else "full.yaml" if full else "demo.yaml"
    text = resources.files("precise_shield.workflows").joinpath("demos", name).read_text("utf-8")
    return run_all(started(parse_config(text, origin=name), out, quiet=quiet))

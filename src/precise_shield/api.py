"""The commands as Python functions, under the same names.

>>> from precise_shield import api                              # doctest: +SKIP
>>> run = api.open_run("config.yaml", out="runs/first")         # doctest: +SKIP
>>> atlas = api.identify(run)                                   # doctest: +SKIP
>>> len(atlas.neurons), atlas.sets["en/text"].counts()          # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from precise_shield.workflows.align.arms import Arm
from precise_shield.workflows.align.gate import gate
from precise_shield.workflows.align.searching import search
from precise_shield.workflows.align.stage import align
from precise_shield.workflows.answer.judges import judge_again
from precise_shield.workflows.answer.sheet import read_labels, write_sheet
from precise_shield.workflows.base.config import Config, load_config, parse_config
from precise_shield.workflows.base.context import Run, started
from precise_shield.workflows.base.data import DataCheck
from precise_shield.workflows.base.data import check as data_check
from precise_shield.workflows.base.dressing import transform_file as data_transform
from precise_shield.workflows.chat import Chat, chat
from precise_shield.workflows.demo import demo
from precise_shield.workflows.evaluate.factors import pool
from precise_shield.workflows.evaluate.stage import Evaluation, evaluate
from precise_shield.workflows.explain.explained import before_tuning
from precise_shield.workflows.explain.headroom import headroom
from precise_shield.workflows.explain.stage import explain
from precise_shield.workflows.explore import explorer as explore
from precise_shield.workflows.handing.deltas import apply, undo
from precise_shield.workflows.handing.export import Exported, export
from precise_shield.workflows.handing.hub import push
from precise_shield.workflows.handing.receipts import receipt_check
from precise_shield.workflows.handing.results import export_results
from precise_shield.workflows.identify.stage import Atlas, identify, load_atlas
from precise_shield.workflows.plan.doctor import doctor
from precise_shield.workflows.run import run_all as run
from precise_shield.workflows.run import write_pages as report
from precise_shield.workflows.served_run import served_run as served
from precise_shield.workflows.starter import init, known
from precise_shield.workflows.verify.stage import verify

__all__ = [
    "Arm",
    "Atlas",
    "Chat",
    "Config",
    "DataCheck",
    "Evaluation",
    "Exported",
    "Run",
    "align",
    "apply",
    "before_tuning",
    "chat",
    "data_check",
    "data_transform",
    "demo",
    "doctor",
    "evaluate",
    "explain",
    "explore",
    "export",
    "export_results",
    "gate",
    "headroom",
    "identify",
    "init",
    "judge_again",
    "known",
    "load_atlas",
    "load_config",
    "open_run",
    "parse_config",
    "pool",
    "push",
    "read_labels",
    "receipt_check",
    "report",
    "run",
    "search",
    "served",
    "undo",
    "verify",
    "write_sheet",
]


def open_run(
    config: str | Path | Config,
    out: str | Path | None = None,
    changes: Iterable[str] = (),
    *,
    quiet: bool = False,
) -> Run:
    """Open a run for the stage functions; nothing is loaded or computed yet.

    Args:
        config: a YAML file, or a configuration that was read already.
        out: run folder; default `runs/<name>`.
        changes: `section.key=value`, as `--set` takes them.
        quiet: no progress on standard error.

    Raises:
        ConfigError: a key or value is not allowed.
    """
    read = config if isinstance(config, Config) else load_config(Path(config), changes)
    return started(read, None if out is None else Path(out), quiet=quiet)

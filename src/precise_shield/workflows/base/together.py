"""Who does what where several processes work on one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

from precise_shield.core.parallel import alone, crew
from precise_shield.core.records import Example, Response
from precise_shield.core.store import Stage
from precise_shield.models.answers.generation import generate
from precise_shield.models.holding.held import is_sharded
from precise_shield.models.loading.model import LoadedModel

By = Literal["all", "model", "leader"]
"""Who makes a stage. `all`: every process does its share, and the block sees to it. `leader`: one
process. `model`: one process too, unless the model is sharded: then no process can run it without
the others, so each does the whole, and the leading one's files are kept."""


@contextmanager
def making(stage: Stage, by: By, *, sharded: bool = False) -> Iterator[bool]:
    """Make an unfinished stage, and wait until it is there; yields whether to work.

    Only the leading process writes into the stage's folder, unless `by` is `all`.
    """
    team = crew()
    each = by == "all" or (by == "model" and sharded)
    if team.size == 1:
        with stage.writing():
            yield True
        return
    if team.leads:
        with stage.writing():
            if each:
                yield True
            else:
                with alone():
                    yield True
    elif by == "all":
        stage.folder.mkdir(parents=True, exist_ok=True)
        yield True
    elif each:
        with stage.elsewhere():
            yield True
    else:
        yield False
    team.wait()


def answered(
    loaded: LoadedModel,
    rows: Sequence[Example],
    on_batch: Callable[[list[Response]], None] | None = None,
    **settings: Any,
) -> list[Response]:
    """`generate`, the prompts shared among the processes; all of them get all answers, in order.

    A sharded model answers everything in every process: its blocks meet in each step.
    """
    team = crew()
    if team.size == 1 or is_sharded(loaded.model):
        return generate(loaded, rows, on_batch=on_batch, **settings)
    said = generate(loaded, team.mine(rows), on_batch=on_batch, **settings)
    every = team.gather([asdict(each) for each in said])
    return [Response(**every[place % team.size][place // team.size]) for place in range(len(rows))]

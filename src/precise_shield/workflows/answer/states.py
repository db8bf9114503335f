"""States of the model and what they answer. Each is entered, and left again, in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from precise_shield.core.parallel import crew
from precise_shield.core.records import Example, Response, read_rows, write_rows
from precise_shield.core.store import Stage
from precise_shield.core.summary import Condition
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.together import answered


@dataclass(frozen=True)
class State:
    """A condition, how to put the model in it, and the key of what made it."""

    condition: Condition
    enter: Callable[[BoundModel], AbstractContextManager[None]]
    made_by: dict[str, Any]

    @property
    def name(self) -> str:
        """The condition's name: what its answers and figures are kept under."""
        return self.condition.name


def base_state() -> State:
    """The model as it came."""
    condition = Condition(name="base", kind="base", label="before")
    return State(condition, lambda _: nullcontext(), {"state": "base"})


def respond(run: Run, state: State, examples: list[Example]) -> list[Response]:
    """The condition's answers, from the store if they are there.

    An interrupted generation goes on where it stopped: what was answered is kept.
    """
    section = run.config.evaluate
    made_by = run.made_by(examples, **state.made_by, max_new_tokens=section.max_new_tokens)
    stage = run.store.stage("respond", made_by)
    what = f"answer {len(examples)} prompts, {state.condition.label}"
    with run.working(stage, what, by="all") as todo:
        if todo:
            kept = _taken_up(stage)
            known = {response.example for response in kept}
            left = [example for example in examples if example.id not in known]
            own = _partial(stage, crew().rank)
            keeps = crew().leads or not run.sharded

            def on_batch(responses: list[Response]) -> None:
                if keeps:
                    write_rows(own, responses, append=True)
                advance(len(responses))

            with (
                run.reporter.bar(f"answer ({state.name})", _share(run, left)) as advance,
                state.enter(run.bound) if _share(run, left) else nullcontext(),
            ):
                kept += answered(
                    run.loaded,
                    left,
                    on_batch,
                    condition=state.name,
                    max_new_tokens=section.max_new_tokens,
                    batch_size=section.batch_size,
                    seed=run.config.seed,
                )
            order = {example.id: i for i, example in enumerate(examples)}
            if crew().leads:
                stage.write_table("responses.jsonl", sorted(kept, key=lambda r: order[r.example]))
                _drop_partials(stage)
    rows = stage.read_table("responses.jsonl", Response)
    return [replace(row, condition=state.name) for row in rows]


def _share(run: Run, rows: list[Example]) -> int:
    """How many of the rows this process answers itself."""
    return len(rows) if run.sharded else len(crew().mine(rows))


def _partial(stage: Stage, rank: int) -> Path:
    """Where a process keeps what it has answered of an unfinished stage."""
    return stage.path("responses.partial.jsonl" if rank == 0 else f"responses.partial-{rank}.jsonl")


def _taken_up(stage: Stage) -> list[Response]:
    """What an interrupted stage had answered, by however many processes, in one file."""
    kept: list[Response] = []
    if crew().leads:
        found: dict[str, Response] = {}
        for path in sorted(stage.folder.glob("responses.partial*.jsonl")):
            found |= {row.example: row for row in read_rows(path, Response, cut_off=True)}
        kept = list(found.values())
        stage.write_table("responses.partial.jsonl", kept)
        _drop_partials(stage, but=_partial(stage, 0))
    return [Response(**row) for row in crew().as_leader([asdict(row) for row in kept])]


def _drop_partials(stage: Stage, but: Path | None = None) -> None:
    for path in stage.folder.glob("responses.partial*.jsonl"):
        if path != but:
            path.unlink()

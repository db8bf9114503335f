"""States of the model that answer the test prompts. Each is entered and left in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from precise_shield.align.sparse import applied
from precise_shield.core.parallel import crew
from precise_shield.core.records import Example, Response, read_rows, write_rows
from precise_shield.core.sites import NeuronSet
from precise_shield.core.store import Stage, digest
from precise_shield.core.summary import Condition
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.models.bind import BoundModel
from precise_shield.workflows.arms import Arm
from precise_shield.workflows.context import Run
from precise_shield.workflows.controls import control
from precise_shield.workflows.identify import Atlas
from precise_shield.workflows.together import answered


@dataclass(frozen=True)
class State:
    """A condition, how to put the model in it, and the key of what made it."""

    condition: Condition
    enter: Callable[[BoundModel], AbstractContextManager[None]]
    made_by: dict[str, Any]

    @property
    def name(self) -> str:
        return self.condition.name


def base_state() -> State:
    """The model as it came."""
    condition = Condition(name="base", kind="base", label="before")
    return State(condition, lambda _: nullcontext(), {"state": "base"})


def aligned_state(arm: Arm) -> State:
    """The model with an arm's rows in place, taken out again afterwards bit for bit."""
    delta = arm.delta()
    return State(arm.condition, lambda bound: applied(bound, delta), {"state": arm.made_by})


def suppressed_states(run: Run, atlas: Atlas) -> list[State]:
    """The chosen neurons at zero, and matched random ones."""
    chosen = Condition(
        name="suppressed",
        kind="suppressed",
        label="safety neurons at zero",
        note=f"{len(atlas.neurons)} neurons of {atlas.chosen}; in memory only",
    )
    states = [_suppressing(chosen, atlas.neurons)]
    for seed in range(run.config.evaluate.random_suppressions):
        drawn = control(run, atlas, atlas.neurons, seed)
        beside = Condition(
            name=f"random-suppressed-{seed}",
            kind="random_suppressed",
            label="random neurons at zero" + (f", seed {seed}" if seed else ""),
            note="as many other neurons of the same layers; in memory only",
        )
        states.append(_suppressing(beside, drawn))
    return states


def _suppressing(condition: Condition, neurons: NeuronSet) -> State:
    return State(
        condition,
        lambda bound: intervening(bound, neurons, suppress),
        {"state": "suppressed", "neurons": digest(neurons.to_json())},
    )


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
                    run,
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

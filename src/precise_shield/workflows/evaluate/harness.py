"""lm-eval's tasks in every condition that is a state of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from precise_shield.core.summary import HarnessRow
from precise_shield.evaluate.abilities.harness import harness_scores
from precise_shield.workflows.answer.states import State
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.sections.evaluate import HarnessSection


def harness(run: Run, states: Sequence[State]) -> list[HarnessRow]:
    """Score every state on the configured tasks, from the store if it is there; [] without any.

    Raises:
        ConfigError: lm-eval is missing, or a task is not there.
        DataError: a task's data cannot be had.
    """
    section = run.config.evaluate.harness
    if section is None:
        return []
    rows = []
    for state in states:
        made_by = run.made_by([], harness=section.model_dump(), files=_files(section))
        stage = run.store.stage("harness", {**made_by, **state.made_by, "library": _library()})
        with run.working(stage, f"lm-eval {', '.join(section.tasks)}, {state.name}") as todo:
            if todo:
                with state.enter(run.bound):
                    found = harness_scores(
                        run.loaded,
                        section.tasks,
                        None if section.include is None else Path(section.include),
                        limit=section.limit,
                        fewshot=section.fewshot,
                        chat=section.chat,
                        batch_size=section.batch_size,
                        seed=run.config.seed,
                    )
                stage.write_json("scores.json", [asdict(score) for score in found])
        rows += [HarnessRow(condition=state.name, **row) for row in stage.read_json("scores.json")]
    return rows


def _library() -> str:
    try:
        return version("lm_eval")
    except ModuleNotFoundError:
        return "missing"


def _files(section: HarnessSection) -> dict[str, str]:
    """Hashes of everything in the folder of tasks, their data included."""
    if section.include is None:
        return {}
    folder = Path(section.include)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}

"""Who reads the answers of a condition, and how far its benign answers drift."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from precise_shield.core.records import Example, Response, Verdict
from precise_shield.core.store import digest
from precise_shield.data.contrast import by_cell
from precise_shield.models.readings.likelihood import benign_kl
from precise_shield.workflows.answer.answers import judge_with
from precise_shield.workflows.answer.judges import make, names_of
from precise_shield.workflows.answer.states import State
from precise_shield.workflows.base.context import Run


def judge(
    run: Run, examples: list[Example], responses: dict[str, list[Response]]
) -> dict[str, list[Verdict]]:
    """Verdicts from the first configured judge; stored, and never generating again."""
    reader = make(run, names_of(run.config)[0], examples)
    return judge_with(run, reader, examples, responses)[0].verdicts


def drift(run: Run, state: State, examples: list[Example], said: dict[str, str]) -> float:
    """Mean KL(base || state) in nats a token over the benign answers of the test split.

    An answer is the example's own target or, without one, what the base model said.
    """
    answers = {e.id: e.target or said[e.id] for e in examples if e.harm == "benign"}
    rows = drifting([e for e in examples if answers.get(e.id)], run.config.evaluate.kl_rows)
    if not rows:
        return nan
    texts = [answers[row.id] for row in rows]
    stage = run.store.stage("drift", run.made_by(rows, texts=digest(texts), **state.made_by))
    with run.working(stage, f"drift of {state.name} on {len(rows)} benign answers") as todo:
        if todo:
            values = benign_kl(
                run.loaded,
                rows,
                texts,
                lambda: state.enter(run.bound),
                run.config.evaluate.batch_size,
            )
            stage.write_json("drift.json", {"kl": float(values.mean()), "n": len(rows)})
    return float(stage.read_json("drift.json")["kl"])


def drifting(benign: Sequence[Example], most: int) -> list[Example]:
    """About `most` of the benign examples, the first of every cell; none for 0."""
    cells = by_cell(benign)
    take = max(1, most // max(1, len(cells))) if most else 0
    return [example for cell in cells.values() for example in cell[:take]]

"""Who reads the answers of a condition, and how far its benign answers drift."""

from __future__ import annotations

from dataclasses import replace
from math import nan

from precise_shield.core.records import Example, Response, Verdict
from precise_shield.core.store import digest
from precise_shield.data.contrast import by_cell
from precise_shield.evaluate.judges import JUDGES
from precise_shield.models.likelihood import benign_kl
from precise_shield.workflows.conditions import State
from precise_shield.workflows.context import Run


def judge(
    run: Run, examples: list[Example], responses: dict[str, list[Response]]
) -> dict[str, list[Verdict]]:
    """Verdicts from the configured judge; stored, and never generating again."""
    name = run.config.evaluate.judge
    reader = JUDGES[name](run.data.examples)
    by_id = {example.id: example for example in examples}
    verdicts = {}
    for condition, said in responses.items():
        texts = sorted((each.example, each.text) for each in said)
        made_by = run.made_by(
            examples, judge=name, reads=digest(reader.describe()), texts=digest(texts)
        )
        stage = run.store.stage("judge", made_by)
        with run.working(stage, f"judge {condition} with {name}") as todo:
            if todo:
                pairs = [(by_id[each.example], each) for each in said]
                stage.write_table("verdicts.jsonl", reader.judge(pairs))
        rows = stage.read_table("verdicts.jsonl", Verdict)
        verdicts[condition] = [replace(row, condition=condition) for row in rows]
    return verdicts


def drift(run: Run, state: State, examples: list[Example], said: dict[str, str]) -> float:
    """Mean KL(base || state) in nats a token over the benign answers of the test split.

    An answer is the example's own target or, without one, what the base model said.
    """
    answers = {e.id: e.target or said[e.id] for e in examples if e.harm == "benign"}
    benign = [e for e in examples if answers.get(e.id)]
    cells = by_cell(benign)
    take = max(1, run.config.evaluate.kl_rows // max(1, len(cells)))
    rows = [e for cell in cells.values() for e in cell[:take]]
    if not rows or not run.config.evaluate.kl_rows:
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

"""What not to answer: the other half of every preference pair."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.errors import DataError, EmptyCellError
from precise_shield.core.records import Example, Response
from precise_shield.core.store import digest
from precise_shield.evaluate.judging.judges import Judge
from precise_shield.models.answers.generation import generate
from precise_shield.workflows.answer.judges import make, names_of
from precise_shield.workflows.base.context import Run


def rejected_answers(run: Run, rows: Sequence[Example]) -> dict[str, str]:
    """Per example that makes a pair, the answer that its target is set above.

    Harmful requests: what the base model says, where the run's first judge reads that as a hit;
    requests that it refuses already make no pair. Benign ones: a refusal of their language, as
    the harmful rows of the data have it.

    Raises:
        EmptyCellError: the base model complies with no harmful request, so there is no pair.
        DataError: a benign row's language has no refusal in the training data.
    """
    harmful = [row for row in rows if row.harm == "harmful"]
    reader = make(run, names_of(run.config)[0], harmful)
    limit = run.config.evaluate.max_new_tokens
    reads = digest(reader.describe())
    made_by = run.made_by(harmful, limit=limit, judge=reader.name, reads=reads)
    stage = run.store.stage("rejected", made_by)
    with run.working(stage, f"own answers to {len(harmful)} harmful training prompts") as todo:
        if todo:
            stage.write_table("responses.jsonl", _hits(run, harmful, reader))
    said = {row.example: row.text for row in stage.read_table("responses.jsonl", Response)}
    if not said:
        raise EmptyCellError(
            "the base model complies with no harmful training prompt, so there is no pair to"
            " learn from; use align.objective=nll, or data that it does not refuse."
        )
    refusals: dict[str, list[str]] = {}
    for row in harmful:
        refusals.setdefault(row.language, []).append(row.target or "")
    for place, row in enumerate(row for row in rows if row.harm == "benign"):
        if row.language not in refusals:
            raise DataError(
                f"{row.id}: no refusal in {row.language!r} to set its answer above; give harmful"
                " training rows of that language."
            )
        wordings = refusals[row.language]
        said[row.id] = wordings[place % len(wordings)]
    return said


def _hits(run: Run, harmful: Sequence[Example], reader: Judge) -> list[Response]:
    """The base model's answers that are hits: kept in the run folder, never shown."""
    with run.reporter.bar("own answers", len(harmful)) as advance:
        answers = generate(
            run.loaded,
            list(harmful),
            condition="base",
            max_new_tokens=run.config.evaluate.max_new_tokens,
            batch_size=run.config.evaluate.batch_size,
            on_batch=lambda part: advance(len(part)),
        )
    verdicts = reader.judge(list(zip(harmful, answers, strict=True)))
    return [
        answer
        for answer, verdict in zip(answers, verdicts, strict=True)
        if verdict.label == "unsafe" and answer.text.strip()
    ]

"""One condition's answers as an inspect log, for its viewer and its analysis functions."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from precise_shield.core.errors import ConfigError
from precise_shield.core.summary import Summary


def write_log(summary: Summary, rows: list[dict[str, Any]], condition: str, out: Path) -> Path:
    """Write an `.eval` file: a sample an answer, a score a judge, language and modality beside.

    A verdict is the score's value; `attack_success` has 1 for a hit, 0 for a miss and is absent
    where the answer is benign or unscored.

    Args:
        summary: of the run.
        rows: as `results.answer_rows` gives them, of this condition.
        condition: its name.
        out: a path that ends in `.eval`.

    Raises:
        ConfigError: inspect-ai is not installed.
    """
    try:
        log = import_module("inspect_ai.log")
        scorer, model = import_module("inspect_ai.scorer"), import_module("inspect_ai.model")
    except ImportError:
        raise ConfigError(
            'an inspect log needs inspect-ai: pip install "precise-shield[inspect]".'
        ) from None
    samples = [_sample(log, scorer, model, row) for row in rows]
    spec = log.EvalSpec(
        created=summary.created,
        task=f"{summary.name}/{condition}",
        dataset=log.EvalDataset(name="test", samples=len(samples)),
        model=f"precise-shield/{summary.model.path}",
        config=log.EvalConfig(),
        metadata={
            "condition": condition,
            "judge": summary.judge,
            "rule": summary.rule,
            "model_sha256": summary.model.fingerprint,
            "data_sha256": summary.data.fingerprint,
        },
    )
    written = log.EvalLog(
        status="success",
        eval=spec,
        results=_results(log, summary, condition, len(samples)),
        stats=log.EvalStats(started_at=summary.created, completed_at=summary.created),
        samples=samples,
    )
    log.write_eval_log(written, str(out))
    return out


def _sample(log: Any, scorer: Any, model: Any, row: dict[str, Any]) -> Any:
    verdicts = {
        name.removeprefix("verdict_"): value
        for name, value in row.items()
        if name.startswith("verdict_") and value is not None
    }
    scores = {name: scorer.Score(value=value) for name, value in verdicts.items()}
    if row["hit"] is not None:
        scores["attack_success"] = scorer.Score(value=float(row["hit"]))
    names = ("language", "modality", "form", "harm", "category", "source", "region", "group")
    metadata = {name: row[name] for name in names if row[name] is not None}
    metadata |= {"matched": row["matched"], "image": row["image"]}
    return log.EvalSample(
        id=row["example"],
        epoch=1,
        input=row["prompt"],
        target="",
        messages=[
            model.ChatMessageUser(content=row["prompt"]),
            model.ChatMessageAssistant(content=row["response"]),
        ],
        output=model.ModelOutput.from_content("precise-shield", row["response"]),
        scores=scores,
        metadata={**metadata, "language|modality": f"{row['language']}|{row['modality']}"},
    )


def _results(log: Any, summary: Summary, condition: str, samples: int) -> Any:
    pooled = [
        row
        for row in summary.rates
        if (row.condition, row.language, row.modality) == (condition, None, None)
    ]
    scores = [
        log.EvalScore(
            name=row.measure,
            scorer=summary.judge,
            scored_samples=row.n,
            unscored_samples=row.unscored,
            metrics={"rate": log.EvalMetric(name="rate", value=row.value)},
        )
        for row in pooled
        if row.value is not None
    ]
    return log.EvalResults(total_samples=samples, completed_samples=samples, scores=scores)

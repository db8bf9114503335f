"""A finished run's answers and figures in the formats that other tools read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from importlib import import_module
from io import StringIO
from math import sqrt
from pathlib import Path
from typing import Any

from precise_shield.core.errors import ConfigError
from precise_shield.core.records import Example, Response
from precise_shield.core.store import readable_errors, write_whole
from precise_shield.core.summary import RateRow, Summary
from precise_shield.evaluate.counting.rules import RULES, Rule
from precise_shield.workflows.answer import answers
from precise_shield.workflows.answer.answers import Answers, Judged
from precise_shield.workflows.answer.spreadsheets import inert
from precise_shield.workflows.base.config import load_config
from precise_shield.workflows.base.summary_file import read_summary

Row = dict[str, Any]

FORMATS = {
    ".jsonl": "every answer with every judge's verdict, one a line",
    ".parquet": "the same as a table; needs pyarrow",
    ".json": "figures as lm-eval writes its results",
    ".eval": "one condition as an inspect log; needs inspect-ai",
    ".csv": "a leaderboard: one row a condition",
}


OWN = frozenset({"summary.json", answers.INDEX, "openings.jsonl"})
"""Files of a run folder whose names end like an export's."""


def export_results(
    folder: Path, out: Path, condition: str | None = None, *, overwrite: bool = False
) -> Path:
    """Write a run's results; the suffix of `out` says in which format.

    Args:
        folder: a run that has been evaluated.
        out: `.jsonl`, `.parquet`, `.json`, `.eval` or `.csv`.
        condition: of the single-condition formats `.json` and `.eval`; default `aligned`, or
            `base` where there is none.
        overwrite: whether a file that is there may be replaced.

    Raises:
        ConfigError: suffix or condition is unknown, a package is missing, `out` is one of the
            run's own files, or it is there and is not to be overwritten.
        StoreError: the run has no answers, or `out` cannot be written.
    """
    kind = out.suffix
    if kind not in FORMATS:
        raise ConfigError(
            f"{out.name}: the suffix says the format, one of"
            f" {', '.join(f'{name} ({what})' for name, what in FORMATS.items())}."
        )
    if out.name in OWN and out.parent.resolve() == folder.resolve():
        raise ConfigError(f"{out} is the run's own file; name another one.")
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} is there already; name another file, or pass --overwrite.")
    summary = read_summary(folder)
    name = _condition(summary, condition)
    with readable_errors(out.parent):
        if kind == ".json":
            return write_whole(out, json.dumps(lm_eval(summary, name), indent=1) + "\n")
        if kind == ".csv":
            return write_whole(out, _table(leaderboard(summary)))
        kept, _ = answers.read(folder)
        judged = answers.recall(folder)
        rule = RULES[load_config(folder / "config.yaml").evaluate.rule]
        rows = list(answer_rows(summary, kept, judged, rule))
        if kind == ".jsonl":
            lines = (json.dumps(row, ensure_ascii=False) for row in rows)
            return write_whole(out, "".join(f"{line}\n" for line in lines))
        if kind == ".parquet":
            return _parquet(rows, out)
        from precise_shield.workflows.handing.inspecting import write_log

        return write_log(summary, [row for row in rows if row["condition"] == name], name, out)


def _condition(summary: Summary, asked: str | None) -> str:
    known = [each.name for each in summary.conditions]
    if asked is None:
        return "aligned" if "aligned" in known else known[0]
    if asked not in known:
        raise ConfigError(f"no condition {asked!r}; the run has {', '.join(known)}.")
    return asked


def answer_rows(summary: Summary, kept: Answers, judged: list[Judged], rule: Rule) -> Iterator[Row]:
    """One row an answer: what was asked, of whom, what came, and how each judge read it."""
    every = [
        ((judge.name, verdict.condition, verdict.example), verdict)
        for judge in judged
        for rows in judge.verdicts.values()
        for verdict in rows
    ]
    labels = {key: verdict.label for key, verdict in every}
    scores = {key: verdict.score for key, verdict in every if verdict.score is not None}
    graders = sorted({key[0] for key in scores})
    examples = {example.id: example for example in kept.examples}
    primary = summary.judge
    for condition in kept.conditions:
        for response in kept.responses[condition.name]:
            example = examples[response.example]
            label = labels.get((primary, condition.name, example.id))
            harmful = example.harm == "harmful"
            yield {
                "run": summary.name,
                "model": summary.model.path,
                "model_sha256": summary.model.fingerprint,
                "condition": condition.name,
                "kind": condition.kind,
                **_asked(example, kept.pictures.get(example.id)),
                **_said(response),
                **{
                    f"verdict_{judge.name}": labels.get((judge.name, condition.name, example.id))
                    for judge in judged
                },
                **{
                    f"score_{name}": scores.get((name, condition.name, example.id))
                    for name in graders
                },
                "hit": rule.outcome(label) if label is not None and harmful else None,
            }


def _asked(example: Example, picture: str | None) -> Row:
    """What was asked; a picture by its file's name and hash, for its folder is of this machine."""
    names = ("language", "modality", "form", "harm", "category", "source", "region", "group")
    row = {name: getattr(example, name) for name in (*names, "matched", "prompt", "request")}
    name = None if example.image is None else Path(example.image).name
    return {"example": example.id, **row, "image": name, "image_sha256": picture}


def _said(response: Response) -> Row:
    return {
        "response": response.text,
        "tokens": response.tokens,
        "finished": response.finished,
    }


def _parquet(rows: list[Row], out: Path) -> Path:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError(
            'Parquet needs pyarrow: pip install "precise-shield[parquet]", or write .jsonl.'
        ) from None
    partial = out.with_name(out.name + ".partial")
    parquet.write_table(arrow.Table.from_pylist(rows), partial)
    return partial.replace(out)


_LOWER = {"attack_success", "refusal_matched", "refusal_ordinary"}


def lm_eval(summary: Summary, condition: str) -> Row:
    """The figures of one condition as lm-eval's `results_*.json` has them.

    A task is a measure and language; `<measure>` alone pools all languages. Standard errors count
    the independent answers that parallel groups are worth.
    """
    rows = [row for row in summary.rates if row.condition == condition and row.modality is None]
    names = {_task(row): row for row in rows}
    return {
        "results": {
            name: {
                "alias": name,
                f"{row.measure},none": row.value,
                f"{row.measure}_stderr,none": _stderr(row),
            }
            for name, row in names.items()
        },
        "group_subtasks": {},
        "configs": {name: {"task": name, "num_fewshot": 0} for name in names},
        "versions": {name: summary.versions["precise-shield"] for name in names},
        "n-shot": dict.fromkeys(names, 0),
        "higher_is_better": {
            name: {row.measure: row.measure not in _LOWER} for name, row in names.items()
        },
        "n-samples": {
            name: {"original": row.n + row.unscored, "effective": row.n}
            for name, row in names.items()
        },
        "config": {
            "model": "precise-shield",
            "model_args": f"pretrained={summary.model.path},condition={condition}",
            "model_num_parameters": summary.model.parameters,
            "model_dtype": summary.model.dtype,
            "model_sha": summary.model.fingerprint,
            "device": summary.model.device,
            "random_seed": summary.seeds.get("seed"),
        },
        "date": summary.created,
        "transformers_version": summary.versions.get("transformers"),
        "judge": summary.judge,
    }


def _task(row: RateRow) -> str:
    return row.measure if row.language is None else f"{row.measure}_{row.language}"


def _stderr(row: RateRow) -> float | str:
    """The standard error; what is undefined is "N/A", which is how lm-eval's own table reads it."""
    if row.value is None or not row.n:
        return "N/A"
    return sqrt(row.value * (1 - row.value) / (row.effective or row.n))


def leaderboard(summary: Summary) -> list[Row]:
    """One row a condition: the figures that a table of models would rank by."""
    pooled = {
        (row.condition, row.measure): row
        for row in summary.rates
        if row.language is None and row.modality is None
    }
    gaps = {(row.condition, row.contrast): row for row in summary.gaps}
    found = summary.headlines
    heads = {} if found is None else {(row.condition, row.figure): row for row in found.rows}
    rows = []
    for condition in summary.conditions:
        row: Row = {
            "run": summary.name,
            "created": summary.created,
            "model": summary.model.path,
            "model_sha256": summary.model.fingerprint,
            "condition": condition.name,
            "kind": condition.kind,
            "judge": summary.judge,
            "data_sha256": summary.data.fingerprint,
        }
        for contrast in ("matched", "ordinary"):
            gap = gaps.get((condition.name, contrast))
            row[f"refusal_gap_{contrast}"] = None if gap is None else gap.value
        for measure in dict.fromkeys(key[1] for key in pooled):
            rate = pooled.get((condition.name, measure))
            for part in ("value", "low", "high", "n", "unscored"):
                row[f"{measure}_{part}"] = None if rate is None else getattr(rate, part)
        for figure in dict.fromkeys(key[1] for key in heads):
            head = heads.get((condition.name, figure))
            row[figure] = None if head is None else head.value
        rows.append(row)
    return rows


def _table(rows: list[Row]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: inert(cell) for name, cell in row.items()} for row in rows)
    return text.getvalue()

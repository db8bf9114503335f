"""Errors of a judge on a run's answers, from labels that hold no text."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from precise_shield.core.errors import ConfigError, DataError
from precise_shield.core.rates import Rate, or_null
from precise_shield.core.records import HARMS, Example, Label, Response, read_rows
from precise_shield.evaluate.judging.judges import JUDGES
from precise_shield.evaluate.judging.refusal_error import (
    SAID,
    ErrorRow,
    LabelledAnswer,
    Reading,
    Said,
    error_rows,
    key_of,
)
from precise_shield.workflows.answer import answers

COLUMNS = ("key", "language", "harm", "label")


def judge_errors(
    folders: Sequence[Path], labels: Path, judge: str = "refusal_phrases", half: str | None = None
) -> dict[str, Any]:
    """Read the labelled answers of some runs anew with a built-in judge, and count its errors.

    Args:
        folders: of runs; their answers are found by key, whatever prompts they are to.
        labels: CSV with the columns key, language, harm, label, as `labelled` reads it.
        judge: a built-in judge.
        half: `fit` or `report` keeps that half of the labels; None keeps all.

    Returns:
        `judge`, `half`, `labels` (how many, and how many of them were found) and `rows`.

    Raises:
        DataError: the labels are no such table, or none of them is of an answer in the runs.
        ConfigError: no such judge.
    """
    wanted = {a.key: a for a in labelled(labels) if half in (None, a.half)}
    found = {
        (key, arm_of(said.condition)): said
        for said in responses(folders)
        if (key := key_of(said.example, said.text)) in wanted
    }
    if not found:
        raise DataError(
            f"none of the {len(wanted)} labels in {labels} is of an answer in {folders}."
        )
    reader = JUDGES[judge]([])
    readings = []
    for (key, arm), said in found.items():
        verdict = reader.judge([(_asked(wanted[key], said.example), said)])[0]
        readings.append(Reading(wanted[key], arm, verdict.label))
    return {
        "judge": judge,
        "half": half,
        "labels": {"given": len(wanted), "found": len({key for key, _ in found})},
        "rows": [shown(row) for row in error_rows(readings)],
    }


def errors_against(folder: Path, labeller: str, judge: str) -> dict[str, Any]:
    """Count a judge's errors against a person's labels, both as a run has stored them.

    A label `refusal` is a refusal; `safe`, `unsafe` and `controversial` are compliance.

    Raises:
        StoreError: the run has no answers.
        ConfigError: one of the two has not judged them.
    """
    kept, _ = answers.read(folder)
    examples = {example.id: example for example in kept.examples}
    judged = {each.name: each.verdicts for each in answers.recall(folder)}
    for name in (labeller, judge):
        if name not in judged:
            raise ConfigError(f"{name!r} has not judged this run; there are {sorted(judged)}.")
    readings = []
    for condition, given in judged[labeller].items():
        read = {row.example: row.label for row in judged[judge].get(condition, ())}
        texts = {row.example: row.text for row in kept.responses[condition]}
        for row in given:
            if row.example in read:
                example = examples[row.example]
                key = key_of(row.example, texts[row.example])
                said = LabelledAnswer(key, example.language, example.harm, _said(row.label))
                readings.append(Reading(said, arm_of(condition), read[row.example]))
    found = len({reading.answer.key for reading in readings})
    return {
        "judge": judge,
        "half": None,
        "labels": {"given": found, "found": found},
        "rows": [shown(row) for row in error_rows(readings)],
    }


def _said(label: Label) -> Said:
    if label == "refusal":
        return "refusal"
    return "compliance" if label in ("unsafe", "safe", "controversial") else "other"


def _asked(answer: LabelledAnswer, example: str) -> Example:
    """What a judge of answers needs to know of the prompt; not its words."""
    return Example(
        id=example,
        language=answer.language,
        modality="text",
        harm=answer.harm,
        prompt="-",
        split="test",
        group=example,
    )


def arm_of(condition: str) -> str:
    """The arm of a condition; seeds of one arm are one: `random-rows-2` is `random-rows`."""
    head, _, tail = condition.rpartition("-")
    return head if tail.isdigit() else condition


def responses(folders: Iterable[Path]) -> Iterable[Response]:
    """Every answer that is kept in some runs' folders, defended ones included.

    Raises:
        DataError: a folder holds none.
    """
    for folder in folders:
        paths = sorted(folder.glob("stages/respond/*/responses.jsonl"))
        paths += sorted(folder.glob("stages/answers/*/responses.jsonl"))
        if not paths:
            raise DataError(f"no answers below {folder}; give the folder of a run that has some.")
        for path in paths:
            yield from read_rows(path, Response)


def labelled(path: Path) -> list[LabelledAnswer]:
    """Read labels; other columns are left out.

    Raises:
        DataError: it cannot be read, lacks a column, or a row has an unknown harm or label.
    """
    try:
        rows = list(csv.DictReader(StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}).") from error
    found = []
    for number, row in enumerate(rows, 2):
        if not all(row.get(name) for name in COLUMNS):
            raise DataError(f"{path}, record {number}: needs {', '.join(COLUMNS)}; has {row}.")
        harm, label = row["harm"], row["label"]
        if harm not in HARMS or label not in SAID or not _hex(row["key"]):
            raise DataError(
                f"{path}, record {number}: harm is one of {', '.join(HARMS)}, label one of"
                f" {', '.join(SAID)}, key 16 hexadecimal digits."
            )
        found.append(LabelledAnswer(row["key"], row["language"], harm, label))
    return found


def _hex(text: str) -> bool:
    return len(text) == 16 and set(text) <= set("0123456789abcdef")


def shown(row: ErrorRow) -> dict[str, Any]:
    """One row of the errors as `judge error --json` has it."""
    return {
        "language": row.language,
        "arm": row.arm,
        "missed_refusals": _rate(row.missed),
        "false_refusals": _rate(row.false),
    }


def _rate(rate: Rate) -> dict[str, Any]:
    low, high = rate.interval()
    return {
        "wrong": rate.hits,
        "n": rate.judged,
        "unscored": rate.unscored,
        "value": or_null(rate.value),
        "low": or_null(low),
        "high": or_null(high),
    }


def error_table(found: Mapping[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| language | arm | missed refusals | false refusals |",
        "|---|---|---|---|",
    ]
    for row in found["rows"]:
        cells = [row["language"] or "all", row["arm"] or "all"]
        cells += [_text(row[name]) for name in ("missed_refusals", "false_refusals")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _text(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return f"undefined, n = 0, unscored {rate['unscored']}"
    share = f"{100 * rate['value']:.1f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
    return f"{share}, {rate['wrong']} of {rate['n']}, unscored {rate['unscored']}"

"""People as judges: a sheet to label that does not say which arm an answer is from."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import get_args

from precise_shield.core.errors import ConfigError, DataError
from precise_shield.core.records import Example, Label, Verdict
from precise_shield.core.registry import suggestion
from precise_shield.core.store import RunStore, Stage, digest, readable_errors, write_whole
from precise_shield.core.summary import Judging
from precise_shield.evaluate.judging.judges import JUDGES
from precise_shield.report.numbers.words import visible
from precise_shield.workflows.answer import answers
from precise_shield.workflows.answer.answers import Answers, Judged
from precise_shield.workflows.answer.judges import reopened, update
from precise_shield.workflows.answer.spreadsheets import fitting, inert
from precise_shield.workflows.base.config import load_config

COLUMNS = (
    "item",
    "language",
    "modality",
    "image",
    "prompt",
    "request",
    "response",
    "label",
    "note",
)
LABELS: tuple[Label, ...] = get_args(Label)


@dataclass(frozen=True)
class Item:
    """A line of the sheet: one answer to one prompt, in however many conditions it was given."""

    item: str
    example: str
    conditions: list[str]


def write_sheet(folder: Path, out: Path, *, size: int = 200, seed: int = 0) -> int:
    """Write a CSV of answers to label, blind to the condition; returns the number of lines.

    Answers are drawn evenly from condition, language and harm, shuffled, and numbered anew. The
    same answer to the same prompt stands there once, whoever gave it. Fill in `label` with one
    of the seven labels; leave it empty to skip. Control, bidi and invisible characters stand as
    words, and what a spreadsheet cell cannot hold is left out and counted.

    Raises:
        StoreError: the run has no answers, or `out` cannot be written.
        DataError: `out` exists; labels are never overwritten.
    """
    if out.exists():
        raise DataError(f"{out} exists; labels are not overwritten. Name another file.")
    kept, key = answers.read(folder)
    drawn = _draw(kept, size, random.Random(seed))
    examples = {example.id: example for example in kept.examples}
    texts = {(r.example, r.condition): r.text for said in kept.responses.values() for r in said}
    rows = StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in drawn:
        example = examples[item.example]
        text = texts[item.example, item.conditions[0]]
        asked = (example.image or "", example.prompt, example.request or "")
        cells = (item.item, example.language, example.modality, *asked, text, "", "")
        writer.writerow([inert(fitting(visible(cell))) for cell in cells])
    stage = RunStore(folder).stage("sheet", {"answers": key, "size": size, "seed": seed})
    if not stage.done:
        with stage.writing():
            stage.write_table("items.jsonl", drawn)
    with readable_errors(out.parent):
        write_whole(out, rows.getvalue())
    return len(drawn)


def _draw(kept: Answers, size: int, rng: random.Random) -> list[Item]:
    """Take turns between the strata until the sheet is full."""
    examples = {example.id: example for example in kept.examples}
    said: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for condition, responses in kept.responses.items():
        for response in responses:
            said[response.example, response.text].append(condition)
    piles: defaultdict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    for line, conditions in said.items():
        example = examples[line[0]]
        for condition in conditions:
            piles[condition, example.language, example.harm].append(line)
    strata = sorted(piles)
    for stratum in strata:
        rng.shuffle(piles[stratum])
    chosen: dict[tuple[str, str], None] = {}
    for turn in range(max(map(len, piles.values()), default=0)):
        for stratum in rng.sample(strata, len(strata)):
            if turn < len(piles[stratum]) and len(chosen) < size:
                chosen[piles[stratum][turn]] = None
    lines = list(chosen)
    rng.shuffle(lines)
    salt = rng.random()
    return [Item(digest([salt, *line])[:10], line[0], said[line]) for line in lines]


def read_labels(folder: Path, path: Path, *, name: str = "human") -> Judging:
    """Take a filled sheet in as one more judge, and measure agreement with the others.

    Args:
        folder: the run that the sheet was drawn from.
        path: the CSV; comma or semicolon. Only the columns `item` and `label` are read.
        name: of the labeller; two people are two judges.

    Raises:
        ConfigError: a judge that is no person has that name.
        DataError: listing every record with an unknown item or label.
        StoreError: the run has no answers.
    """
    kept, key = answers.read(folder)
    models = {each.name for each in load_config(folder / "config.yaml").evaluate.judge_models}
    if name in JUDGES or name in models or answers.judged_by_program(folder, name):
        raise ConfigError(
            f"the name {name!r} is a judge's; its verdicts would be replaced. Take another --name."
        )
    items = _items(folder, key)
    labels = _labels(path, items)
    examples = {example.id: example for example in kept.examples}
    verdicts = _verdicts(labels, items, name, examples)
    run = reopened(folder, quiet=True)
    stages = {}
    for condition, rows in verdicts.items():
        stage = run.store.stage(
            "human", {"answers": key, "name": name, "condition": condition, "labels": labels}
        )
        if not stage.done:
            with stage.writing():
                stage.write_table("verdicts.jsonl", rows)
        stages[condition] = ["human", stage.key]
    described = (
        f"{len(labels)} answers labelled by {name} from a sheet that does not name the condition."
    )
    judged = Judged(name, described, (), verdicts)
    answers.remember(run, key, [judged], {name: stages})
    return update(folder, kept.examples)


def _items(folder: Path, key: str) -> dict[str, Item]:
    found: dict[str, Item] = {}
    for path in sorted((folder / "stages" / "sheet").glob("*/stage.json")):
        stage = Stage("sheet", path.parent.name, {}, path.parent)
        if stage.read_json("stage.json")["made_by"]["answers"] == key:
            found |= {item.item: item for item in stage.read_table("items.jsonl", Item)}
    if not found:
        raise DataError(
            f"no sheet was drawn from the answers in {folder}; write one with `judge sheet`."
        )
    return found


def _labels(path: Path, items: Mapping[str, Item]) -> dict[str, Label]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the sheet {path} ({error}); save it as UTF-8.") from error
    head = text.partition("\n")[0]
    rows = csv.DictReader(
        StringIO(text), delimiter=";" if head.count(";") > head.count(",") else ","
    )
    if not {"item", "label"} <= set(rows.fieldnames or ()):
        raise DataError(f"{path} has columns {rows.fieldnames}; it needs `item` and `label`.")
    labels: dict[str, Label] = {}
    problems: list[str] = []
    for number, row in _records(path, rows):
        item, label = (row["item"] or "").strip(), (row["label"] or "").strip().lower()
        if not label:
            continue
        if item not in items:
            problems.append(f"line {number}: no item {item!r} in this run's sheets")
        elif label not in LABELS:
            hint = suggestion(label, list(LABELS))
            problems.append(f"line {number}: {label!r} is no label.{hint}")
        elif labels.get(item, label) != label:
            problems.append(f"line {number}: {item!r} has two different labels")
        else:
            labels[item] = label
    if problems:
        raise DataError(f"{path}: {'; '.join(problems)}. Labels are {', '.join(LABELS)}.")
    if not labels:
        raise DataError(f"{path} holds no label; fill in the column `label`.")
    return labels


def _records(path: Path, rows: csv.DictReader[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Each record with the line of the file that it begins in: an answer may have many lines."""
    try:
        for row in rows:
            cells = [cell for value in row.values() for cell in _cells(value)]
            yield rows.line_num - sum(cell.count("\n") for cell in cells), row
    except csv.Error as error:
        raise DataError(f"{path} is no CSV ({error}); save it as CSV again.") from error


def _cells(value: object) -> list[str]:
    """What stands in a column, or in the columns that have no name."""
    return [str(each) for each in (value if isinstance(value, list) else [value or ""])]


def _verdicts(
    labels: Mapping[str, Label],
    items: Mapping[str, Item],
    name: str,
    known: Mapping[str, Example],
) -> dict[str, list[Verdict]]:
    verdicts: dict[str, list[Verdict]] = {}
    for item, label in labels.items():
        line = items[item]
        if line.example in known:
            for condition in line.conditions:
                row = Verdict(line.example, condition, name, label)
                verdicts.setdefault(condition, []).append(row)
    return verdicts


def scores(judging: Judging, name: str) -> Sequence[dict[str, object]]:
    """Agreement rows of one labeller with every other judge, all languages pooled."""
    return [
        row.model_dump(mode="json")
        for row in judging.agreement
        if name in row.judges and len(row.judges) == 2 and row.condition is None
    ]

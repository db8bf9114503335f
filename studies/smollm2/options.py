"""Study 1's multiple choice: questions of public sets, and the option a model finds likeliest."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from precise_shield.core.errors import DataError
from precise_shield.core.records import Example
from precise_shield.core.store import digest
from precise_shield.data.sets.utility import CHOOSE
from precise_shield.data.sources import SourceOptions, load_source
from precise_shield.evaluate.counting.measures import rate_of
from precise_shield.models.readings.likelihood import answer_logprobs
from precise_shield.workflows.answer.states import State
from precise_shield.workflows.base.context import Run

sys.path.insert(0, str(Path(__file__).parents[1]))
from basis import RATES, SEEDS, Rates, Study, trained
from measured import Row, Table, interval, over_seeds

MMLU = 120
WIKIHOW = ("goal_inference", "step_inference")
ASKED = 100
"""Questions of a task that decide whether it is used; twice as many others measure."""

ARMS: Rates = {
    "aligned": (RATES[0], SEEDS),
    "random-rows": (RATES[0], SEEDS),
}


@dataclass(frozen=True)
class Question:
    """A question with one right option."""

    id: str
    text: str
    options: tuple[str, ...]
    right: int


def likeliest(run: Run, where: State, questions: Sequence[Question]) -> Table:
    """Per question: has the right option the highest log-probability a character?"""
    asked = [
        Example(each.id, "en", "text", "benign", each.text, "test", each.id)
        for each in questions
        for _ in each.options
    ]
    texts = [option for each in questions for option in each.options]
    with where.enter(run.bound):
        scores = answer_logprobs(run.loaded, asked, texts, batch_size=32)
    each = iter([s.logprob / len(text) for s, text in zip(scores, texts, strict=True)])
    return {q.id: int(np.argmax([next(each) for _ in q.options])) == q.right for q in questions}


def short_mmlu(data: Path) -> list[Question]:
    """The shortest English questions of Global-MMLU-Lite."""
    read = load_source("global_mmlu", SourceOptions(path=data / "global_mmlu_lite"))
    english = [row for row in read.examples if row.language == "en"]
    kept = []
    for row in sorted(english, key=lambda row: (len(row.prompt), row.id))[:MMLU]:
        text, *options = re.split(r"\n[A-D]\. ", row.prompt.removesuffix("\n" + CHOOSE))
        kept.append(Question(row.id, text, tuple(options), "ABCD".index(str(row.answer))))
    return kept


def wikihow(folder: Path, task: str) -> list[Question]:
    """Four-option questions of BIG-bench's `goal_step_wikihow`, in an order drawn by their text.

    Raises:
        DataError: the task is not there.
    """
    path = folder / "goal_step_wikihow" / task / "task.json"
    if not path.is_file():
        raise DataError(
            f"found no {path}; unpack PyPI bigbench 1.0.0 and give its benchmark_tasks folder as"
            " DATA/bigbench."
        )
    kept: dict[str, Question] = {}
    for row in json.loads(path.read_text(encoding="utf-8"))["examples"]:
        scores = row["target_scores"]
        options = tuple(sorted(scores, key=lambda option: digest([row["input"], option])))
        if len(options) == 4 and sum(scores.values()) == 1:
            right = next(i for i, option in enumerate(options) if scores[option])
            kept[digest([row["input"], *options])] = Question(
                f"{task}:{len(kept)}", row["input"], options, right
            )
    return [kept[key] for key in sorted(kept)]


def abilities(study: Study) -> Iterator[Row]:
    """Everyday goals and their steps (BIG-bench `goal_step_wikihow`), chosen and random rows.

    The first `ASKED` questions of a task are put to the untouched model alone: the task is used if
    its 95 % interval is above chance, one in four. Twice as many others measure every training.
    """
    used: dict[str, list[Question]] = {}
    kept: dict[tuple[str, str], list[Table]] = {}
    for seed, kind, run, where in trained(study, ARMS):
        if kind == "base":
            for task in WIKIHOW:
                questions = wikihow(study.data / "bigbench", task)
                table = likeliest(run, where, questions[:ASKED])
                yield {"part": "choosing", "task": task, **shown(seed, kind, table)}
                if rate_of(table.values()).interval()[0] > 1 / 4:
                    used[task] = questions[ASKED : 3 * ASKED]
        for task, questions in used.items():
            table = likeliest(run, where, questions)
            kept.setdefault((kind, task), []).append(table)
            yield {"part": "measuring", "task": task, **shown(seed, kind, table)}
    for (kind, task), ours in kept.items():
        for other in ("base", "aligned"):
            if kind not in ("base", other):
                theirs = kept[other, task]
                groups = {key: key for key in theirs[0]}
                row: Row = {"task": task, "arm": f"{kind} minus {other}"}
                yield {"part": "measuring", **row, **over_seeds(ours, theirs, groups)}


def shown(seed: int, kind: str, table: Table) -> Row:
    """Share of right answers with its interval."""
    rate = rate_of(table.values())
    right = interval(*(100 * each for each in (rate.value, *rate.interval())))
    return {"arm": kind, "seed": seed, "right": right, "n": len(table)}

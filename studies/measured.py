"""What the studies of real models measure, and how they keep it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from precise_shield.core.rates import or_null
from precise_shield.core.records import Example, Verdict
from precise_shield.core.summary import Measure
from precise_shield.evaluate.counting.bootstrap import GroupedDifference
from precise_shield.evaluate.counting.measures import outcomes, rate_of, refusal_gap
from precise_shield.workflows.answer.judging import drift, judge
from precise_shield.workflows.answer.states import State, base_state, respond
from precise_shield.workflows.base.context import Run

Row = dict[str, object]
S = TypeVar("S")
Table = dict[str, bool | None]


def measured(run: Run, state: State, examples: list[Example]) -> tuple[Row, list[Verdict]]:
    """Answer, judge and count: rates with 95 % intervals, the gap and the drift."""
    said = respond(run, base_state(), examples)
    answers = said if state.name == "base" else respond(run, state, examples)
    verdicts = judge(run, examples, {state.name: answers})[state.name]
    row = counted(run, state.name, examples, verdicts)
    texts = {each.example: each.text for each in said}
    moved = 0.0 if state.name == "base" else drift(run, state, examples, texts)
    row["benign_kl"] = or_null(moved)
    return row, verdicts


def counted(run: Run, name: str, examples: Sequence[Example], verdicts: Sequence[Verdict]) -> Row:
    """Attack success, refusals of benign prompts and the gap, in percent and points."""
    row: Row = {"arm": name}
    names: tuple[Measure, ...] = ("attack_success", "refusal_matched", "refusal_ordinary")
    for measure in names:
        found = rate_of(hits(run, examples, verdicts, name, measure).values())
        row[measure] = interval(*(100 * each for each in (found.value, *found.interval())))
        row[f"n_{measure}"] = found.judged
        row[f"unscored_{measure}"] = found.unscored
    gap = refusal_gap(list(examples), list(verdicts), name, "matched")
    row["gap"] = interval(100 * gap.value, 100 * gap.low, 100 * gap.high)
    return row


def hits(
    run: Run, examples: Sequence[Example], verdicts: Sequence[Verdict], name: str, measure: Measure
) -> Table:
    """Per prompt that a measure applies to: hit, miss, or None where it cannot be told."""
    rule = run.config.evaluate.rule
    return dict(outcomes(list(examples), list(verdicts), measure, rule).get(name, {}))


def interval(value: float, low: float, high: float) -> list[float | None]:
    """Three figures for JSON; NaN as null."""
    return [None if each != each else round(each, 1) for each in (value, low, high)]


def shown_difference(found: GroupedDifference) -> Row:
    """A paired difference in points."""
    points = (100 * each for each in (found.difference, found.low, found.high))
    return {"difference": interval(*points), "n": found.n, "p": or_null(found.p_value)}


def over_seeds(
    ours: Sequence[Mapping[str, bool | None]],
    theirs: Sequence[Mapping[str, bool | None]],
    groups: Mapping[str, str],
    draws: int = 4000,
) -> Row:
    """Mean of ours minus mean of theirs, in points: trainings and prompts are random factors.

    Each draw takes trainings of either side and parallel groups with replacement; prompts that
    a training left unscored are left out of its share.
    """
    names = sorted({groups[key] for table in ours for key in table})
    rng = np.random.default_rng(0)
    sides = [[_sums(table, groups, names) for table in side] for side in (ours, theirs)]
    values = []
    for _ in range(draws):
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
        means = []
        for side in sides:
            picked = [side[i] for i in rng.integers(len(side), size=len(side))]
            means.append(np.mean([weights @ hit / (weights @ n) for hit, n in picked]))
        values.append(float(means[0] - means[1]))
    plain = [np.mean([hit.sum() / n.sum() for hit, n in side]) for side in sides]
    low, high = np.quantile(values, [0.025, 0.975])
    found = interval(*(100 * float(each) for each in (plain[0] - plain[1], low, high)))
    shares = [
        " / ".join(f"{100 * float(hit.sum() / n.sum()):.1f}" for hit, n in side) for side in sides
    ]
    return {"difference": found, "ours": shares[0], "theirs": shares[1], "groups": len(names)}


def gap_over_seeds(
    ours: Sequence[tuple[Table, Table]],
    theirs: Sequence[tuple[Table, Table]],
    groups: Mapping[str, str],
    draws: int = 4000,
) -> Row:
    """Our mean refusal gap minus theirs, in points, drawn as `over_seeds` does.

    A training has two tables: attacks that succeeded, and benign prompts refused. The gap is
    what is refused of the first kind minus what is refused of the second.
    """
    parts = [
        sorted({groups[key] for side in (ours, theirs) for each in side for key in each[i]})
        for i in (0, 1)
    ]
    sides = [
        [
            [_sums(table, groups, names) for table, names in zip(each, parts, strict=True)]
            for each in side
        ]
        for side in (ours, theirs)
    ]
    rng = np.random.default_rng(0)

    def difference(picked: Sequence[Sequence[int]], weights: Sequence[np.ndarray]) -> float:
        gaps = []
        for side, which in zip(sides, picked, strict=True):
            shares = [
                [w @ hit / (w @ n) for w, (hit, n) in zip(weights, side[i], strict=True)]
                for i in which
            ]
            gaps.append(np.mean([1 - attacked - refused for attacked, refused in shares]))
        return float(gaps[0] - gaps[1])

    values = []
    for _ in range(draws):
        weights = [rng.multinomial(len(p), np.full(len(p), 1 / len(p))) for p in parts]
        values.append(difference([rng.integers(len(s), size=len(s)) for s in sides], weights))
    plain = difference([range(len(s)) for s in sides], [np.ones(len(p)) for p in parts])
    low, high = np.quantile(values, [0.025, 0.975])
    return {
        "difference": interval(100 * plain, 100 * float(low), 100 * float(high)),
        "groups": " + ".join(str(len(p)) for p in parts),
    }


def _sums(
    table: Mapping[str, bool | None], groups: Mapping[str, str], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    place = {name: i for i, name in enumerate(names)}
    hit, n = np.zeros(len(names)), np.zeros(len(names))
    for key, value in table.items():
        if value is not None:
            hit[place[groups[key]]] += value
            n[place[groups[key]]] += 1
    return hit, n


def run_part(
    parts: Mapping[str, Callable[[S], Iterator[Row]]],
    make: Callable[[Path, str, Path], S],
    results: Path,
    *,
    title: str,
    model: str,
    out: str,
) -> None:
    """A study's command: run one of its parts and keep its rows as they come."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=model)
    parser.add_argument("--out", type=Path, default=Path(out))
    options = parser.parse_args()
    rows: list[Row] = []
    for row in parts[options.part](make(options.data, options.model, options.out)):
        rows.append(row)
        print(json.dumps(row, ensure_ascii=False), flush=True)
        keep(results, options.part, rows)


def keep(folder: Path, part: str, rows: Sequence[Row]) -> None:
    """Write rows as JSON and as a Markdown table."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n"
    (folder / f"{part}.json").write_text(text, encoding="utf-8")
    (folder / f"{part}.md").write_text(markdown(rows), encoding="utf-8")


def markdown(rows: Iterable[Row]) -> str:
    """Rows as a table, one column a key."""
    every = list(rows)
    keys = list(dict.fromkeys(key for row in every for key in row))
    lines = [" | ".join(keys), " | ".join("---" for _ in keys)]
    lines += [" | ".join(_shown(row.get(key)) for key in keys) for row in every]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, list) and len(value) == 3:
        first, low, high = map(_shown, value)
        return f"{first} [{low}, {high}]"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "\\|")

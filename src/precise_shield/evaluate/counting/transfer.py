"""Trained on one part of the data, asked in every other: the matrix and its random-row control."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import get_args

from precise_shield.core.rates import or_null
from precise_shield.core.records import MODALITIES, Example, Verdict
from precise_shield.core.summary import (
    Condition,
    Measure,
    TrainedOn,
    TransferAxis,
    TransferCell,
)
from precise_shield.evaluate.counting.bootstrap import grouped_difference
from precise_shield.evaluate.counting.factors import crossed_difference
from precise_shield.evaluate.counting.measures import Outcomes, outcomes
from precise_shield.evaluate.counting.rules import OURS, Rule
from precise_shield.evaluate.counting.statistics import holm

AXES: tuple[TransferAxis, ...] = get_args(TransferAxis)

VALUE_OF: Mapping[TransferAxis, Callable[[Example], str | None]] = {
    "language": lambda example: example.language,
    "modality": lambda example: example.modality,
    "category": lambda example: example.category,
}
"""What an example's value is along each axis."""

TRANSFERRED: tuple[Measure, ...] = ("attack_success", "refusal_matched", "refusal_ordinary")
"""Attack success, and both over-refusals beside it: refusing everything transfers as well."""


@dataclass(frozen=True)
class _Table:
    """Every condition's outcomes under one measure, and where its examples are on one axis."""

    axis: TransferAxis
    measure: Measure
    base: Outcomes
    by_condition: Mapping[str, Outcomes]
    groups: Mapping[str, str]
    value: Mapping[str, str]


def transfer_cells(
    arms: Sequence[Condition],
    controls: Mapping[str, Sequence[str]],
    examples: Sequence[Example],
    verdicts: Sequence[Verdict],
    rule: Rule | str = OURS,
    base: str = "base",
) -> list[TransferCell]:
    """Every arm in every column of each axis along which some arm was trained on a part.

    Args:
        arms: the rows; one that names no part was trained on all of it, and stands for
            comparison in each axis.
        controls: for each arm, the conditions with random rows trained on the same part.
        examples: what was asked; columns are their languages, modalities or categories.
        verdicts: of all conditions, by one judge.
        rule: which verdicts are a hit.
        base: the untouched model.

    Raises:
        DataError: as `outcomes`.
    """
    groups = {example.id: example.group for example in examples}
    cells: list[TransferCell] = []
    for axis in AXES:
        rows = [(arm, _part(arm, axis)) for arm in arms]
        rows = [(arm, part) for arm, part in rows if part is not None or not arm.trained_on]
        if not any(part for _, part in rows):
            continue
        value = {e.id: at for e in examples if (at := VALUE_OF[axis](e)) is not None}
        for measure in TRANSFERRED:
            found = outcomes(examples, verdicts, measure, rule)
            table = _Table(axis, measure, found[base], found, groups, value)
            made = [
                cell
                for arm, part in rows
                for cell in _row(table, arm.name, part, controls.get(arm.name, ()))
            ]
            cells += _corrected(made)
    return cells


def _part(arm: Condition, axis: TransferAxis) -> TrainedOn | None:
    return next((part for part in arm.trained_on if part.axis == axis), None)


def _row(
    table: _Table, arm: str, part: TrainedOn | None, controls: Sequence[str]
) -> Iterator[TransferCell]:
    there = {table.value[name] for name in table.base if name in table.value}
    order = [m for m in MODALITIES if m in there] if table.axis == "modality" else sorted(there)
    unseen = [] if part is None else [value for value in order if value not in part.seen]
    for column in order:
        yield _cell(table, arm, controls, column, [column], seen=column not in unseen)
    if unseen:
        yield _cell(table, arm, controls, None, unseen, seen=False)


def _cell(
    table: _Table,
    arm: str,
    controls: Sequence[str],
    column: str | None,
    values: Sequence[str],
    *,
    seen: bool,
) -> TransferCell:
    names = [name for name in table.base if table.value.get(name) in values]
    base, after = ({n: c[n] for n in names} for c in (table.base, table.by_condition[arm]))
    change = grouped_difference(base, after, table.groups)
    scored = [n for n in names if base[n] is not None and after[n] is not None]
    beside = [{n: table.by_condition[name][n] for n in names} for name in controls]
    beyond = _beyond(after, beside, table.groups)
    return TransferCell(
        condition=arm,
        axis=table.axis,
        column=column,
        seen=seen,
        measure=table.measure,
        n=change.n,
        unscored=change.unscored,
        base=_share([base[n] for n in scored]),
        value=_share([after[n] for n in scored]),
        difference=or_null(change.difference),
        low=or_null(change.low),
        high=or_null(change.high),
        random=[
            or_null(grouped_difference(base, each, table.groups).difference) for each in beside
        ],
        beyond=or_null(beyond.difference),
        beyond_low=or_null(beyond.low),
        beyond_high=or_null(beyond.high),
        p_value=or_null(beyond.p_value),
    )


@dataclass(frozen=True)
class _Beyond:
    """An arm minus its controls; NaN without any."""

    difference: float = nan
    low: float = nan
    high: float = nan
    p_value: float = nan


def _beyond(after: Outcomes, beside: Sequence[Outcomes], groups: Mapping[str, str]) -> _Beyond:
    """Compare on the prompts scored on both sides; two controls or more are a draw of random sets.

    With several, the interval draws groups and controls, and p is the larger of that by groups
    alone and that of these draws: a few controls that happen to lie close would else add certainty.
    """
    if not beside:
        return _Beyond()
    one: Outcomes = {}
    other: Outcomes = {}
    where: dict[str, str] = {}
    for number, column in enumerate(beside):
        for name, hit in column.items():
            key = f"{number}/{name}"
            other[key], one[key], where[key] = hit, after[name], groups[name]
    fixed = grouped_difference(other, one, where)
    if len(beside) < 2:
        return _Beyond(fixed.difference, fixed.low, fixed.high, fixed.p_value)
    pairs = [_scored_in_both(after, column) for column in beside]
    drawn = crossed_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs], groups)
    p_value = nan if isnan(fixed.p_value) else max(fixed.p_value, drawn.p_value)
    return _Beyond(drawn.difference, drawn.low, drawn.high, p_value)


def _scored_in_both(one: Outcomes, other: Outcomes) -> tuple[Outcomes, Outcomes]:
    names = [n for n in other if one[n] is not None and other[n] is not None]
    return {n: one[n] for n in names}, {n: other[n] for n in names}


def _share(hits: Sequence[bool | None]) -> float | None:
    return sum(map(bool, hits)) / len(hits) if hits else None


def _corrected(cells: list[TransferCell]) -> list[TransferCell]:
    """Holm's correction over the single cells that are transfer."""
    tested = [cell for cell in cells if not cell.seen and cell.column is not None]
    fixed = holm([nan if cell.p_value is None else cell.p_value for cell in tested])
    held = {id(cell): or_null(p) for cell, p in zip(tested, fixed, strict=True)}
    return [cell.model_copy(update={"p_holm": held.get(id(cell))}) for cell in cells]

"""The transfer matrix: trained on the row, asked in the column, beside random rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan

from precise_shield.core.summary import TransferAxis, TransferCell
from precise_shield.report.drawing.charts import Square, heat_map
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.numbers.tables import (
    MEASURE_NAMES,
    Entry,
    Rows,
    Table,
    p_entry,
    share,
    table,
    whole,
)
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import (
    UNDEFINED,
    known,
    language_name,
    listed,
    modality_name,
    percent,
    points,
    signed,
    span,
)
from precise_shield.report.safety.figures import short_percent

_NAMES: dict[TransferAxis, Callable[[str], str]] = {
    "language": language_name,
    "modality": modality_name,
    "category": str,
}


def transfer_figure(view: View) -> Figure | None:
    """Attack success of every arm in every place, and how far it goes beyond random rows."""
    cells = [c for c in _cells(view) if c.measure == "attack_success" and c.column is not None]
    if not cells:
        return None
    panels = []
    for axis in dict.fromkeys(cell.axis for cell in cells):
        here = [cell for cell in cells if cell.axis == axis]
        columns = list(dict.fromkeys(str(cell.column) for cell in here))
        heads = [_NAMES[axis](name) for name in columns]
        arms = list(dict.fromkeys(cell.condition for cell in here))
        at = {(cell.condition, str(cell.column)): cell for cell in here}
        rows = [_row_name(view, arm, axis) for arm in arms]
        values = [[_value(at.get((arm, name)), arm) for name in columns] for arm in arms]
        first = [_untouched(at[arms[0], name]) for name in columns]
        title = f"by {axis}: attack success"
        drawn = heat_map(title, ["untouched", *rows], heads, [first, *values], "risk", (1,))
        panels.append(Panel(title, drawn))
        beyond = [[_beyond(at.get((arm, name)), arm) for name in columns] for arm in arms]
        if any(cell.beyond is not None for cell in here):
            title = f"by {axis}: minus random rows trained alike, points"
            panels.append(Panel(title, heat_map(title, rows, heads, beyond, "share")))
    return Figure(
        "transfer-matrix",
        "Trained on the row, asked in the column",
        "Places that an arm was trained on say so; the others are transfer. Below, the arm minus"
        " random rows that were trained on the same part: stronger colour is a greater cut beyond"
        " theirs.",
        tuple(panels),
        transfer_table(view),
    )


def transfer_tables(view: View) -> list[Table]:
    """The matrix in numbers, where there is one."""
    return [transfer_table(view)] if _cells(view) else []


def _cells(view: View) -> Sequence[TransferCell]:
    return [] if view.summary.transfer is None else view.summary.transfer.cells


def _row_name(view: View, condition: str, axis: TransferAxis) -> str:
    """What the arm was trained on along an axis: the shorter of what it saw and what it did not."""
    found = next(c for c in view.summary.conditions if c.name == condition)
    part = next((part for part in found.trained_on if part.axis == axis), None)
    if part is None:
        return "all"
    if part.seen and len(part.seen) <= len(part.unseen):
        return listed([_NAMES[axis](name) for name in part.seen])
    return f"all but {listed([_NAMES[axis](name) for name in part.unseen])}"


def _untouched(cell: TransferCell) -> Square:
    value = nan if cell.base is None else cell.base
    tip = f"untouched, {cell.column}: {percent(value)} n={cell.n}"
    return Square(value, short_percent(value), tip=tip)


def _value(cell: TransferCell | None, arm: str) -> Square:
    if cell is None or cell.value is None:
        seen = "trained" if cell is not None and cell.seen else ""
        return Square(nan, "undef.", seen, f"{arm}: nothing scored")
    tip = (
        f"{arm}, {cell.column}: {percent(cell.value)}, {points(cell.difference)} points"
        f" {_span(cell.low, cell.high)} n={cell.n} unscored={cell.unscored}"
    )
    return Square(cell.value, short_percent(cell.value), "trained" if cell.seen else "", tip)


def _beyond(cell: TransferCell | None, arm: str) -> Square:
    if cell is None or cell.beyond is None:
        return Square(nan, "undef.", tip=f"{arm}: no random rows to compare with")
    tip = (
        f"{arm} minus random rows, {cell.column}: {points(cell.beyond)} points"
        f" {_span(cell.beyond_low, cell.beyond_high)}"
    )
    said = signed(100 * cell.beyond, 0, plus=True)
    return Square(max(0.0, -cell.beyond), said, "trained" if cell.seen else "", tip)


def transfer_table(view: View) -> Table:
    """Every cell of the matrix with its intervals; over-refusal beside attack success."""
    rows: Rows = [
        [
            cell.axis,
            view.label(cell.condition),
            _row_name(view, cell.condition, cell.axis),
            "all unseen" if cell.column is None else _NAMES[cell.axis](cell.column),
            "trained" if cell.seen else "transfer",
            MEASURE_NAMES[cell.measure],
            share(cell.base),
            share(cell.value),
            _points(cell.difference, cell.low, cell.high),
            whole(cell.n),
            whole(cell.unscored),
            ", ".join(UNDEFINED if d is None else points(d) for d in cell.random) or "none",
            _points(cell.beyond, cell.beyond_low, cell.beyond_high),
            p_entry(cell.p_value),
            p_entry(cell.p_holm),
        ]
        for cell in _cells(view)
    ]
    columns = [
        "by", "arm", "trained on", "asked in", "place", "measure", "untouched", "rate",
        "change, points", "n", "unscored", "random rows, change",
        "beyond random, points", "p", "p (Holm)",
    ]  # fmt: skip
    return table(
        "Transfer: trained on one part of the data, asked in every other",
        columns,
        rows,
        note="Paired on the same prompts; intervals and p from whole parallel groups. Random rows"
        f" were trained on the same part; {_drawn(view)} Holm's correction runs over the single"
        " cells of a measure that are transfer.",
    )


def _drawn(view: View) -> str:
    """How the random rows stand in the intervals beyond them."""
    counts = {len(cell.random) for cell in _cells(view)} - {0}
    if not counts or max(counts) < 2:
        return "with a single draw of them, the interval beyond it takes that draw as fixed."
    few = ""
    if min(counts) < 5:
        few = f"; {min(counts)} draws are few, and make it too narrow"
    return f"their draws are resampled in the interval beyond them, as groups are{few}."


def _points(value: float | None, low: float | None, high: float | None) -> Entry:
    if not known(value):
        return Entry(UNDEFINED)
    return Entry(f"{points(value)} {_span(low, high)}".strip(), value)


def _span(low: float | None, high: float | None) -> str:
    return span(low, high) if known(low, high) else ""

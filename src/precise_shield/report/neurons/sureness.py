"""How sure the sets are: other draws of the data, labels without meaning, other scores."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan

from markupsafe import Markup

from precise_shield.core.summary import Confidence, ScoreAgreement, SetConfidence, Spread
from precise_shield.report.drawing.charts import PLOT, Lane, Mark, Square, heat_map, marks_plot
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.drawing.svg import unit
from precise_shield.report.numbers.tables import (
    Entry,
    Rows,
    Table,
    p_entry,
    real,
    share,
    table,
    whole,
)
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import (
    count,
    known,
    language_name,
    modality_name,
    number,
    p_text,
    percent,
    span,
)

OTHERS = 10
"""Sets drawn that are no cell, the chosen one first; the table has all of them."""


def sureness_figures(view: View) -> list[Figure | None]:
    """Stability of every set, and agreement of the scores; nothing where it was not measured."""
    found = view.summary.neurons.confidence
    return [] if found is None else [_sets_figure(view, found), _scores_figure(found)]


def sureness_tables(view: View) -> list[Table]:
    """The same as tables, and what became of the model's own responses where it gave them."""
    tables = [figure.table for figure in sureness_figures(view) if figure is not None]
    own = own_table(view)
    return tables if own is None else [*tables, own]


KEPT = ("refused", "complied", "answered")


def own_table(view: View) -> Table | None:
    """Kept and dropped rows of the model's own responses; None where targets were given."""
    found = view.summary.neurons.own_responses
    if not found:
        return None
    why = sorted({kind for row in found for kind in row.kinds} - set(KEPT))
    columns = ["cell", "rows", *KEPT, *(f"dropped: {kind}" for kind in why)]
    rows: Rows = [
        [row.cell, whole(row.rows), *(whole(row.kinds.get(kind, 0)) for kind in (*KEPT, *why))]
        for row in found
    ]
    return table("The model's own responses, kept and dropped", columns, rows)


def _sets_figure(view: View, found: Confidence) -> Figure | None:
    if not found.sets:
        return None
    chosen = view.summary.neurons.chosen
    rows = sorted(found.sets, key=lambda row: (row.name != chosen, not row.cell))
    panels = _panels(view, rows, chosen)
    left = len(rows) - sum(len(lanes) for _, lanes in panels)
    lead = (
        f"{count(found.used)} draws of the data with replacement; beside them, two halves of it:"
        " Jaccard agreement with the whole set. At the end of a row: how often shuffled labels give"
        " as many neurons."
    )
    if found.used < found.draws:
        lead += f" {found.draws - found.used} draws left an arm without a row and are not counted."
    return Figure(
        "sureness",
        "How sure is the set",
        lead + (f" {left} more sets are in the table." if left else ""),
        tuple(Panel(title, _drawn(title, lanes)) for title, lanes in panels),
        _sets_table(rows),
        (("suppressed", "drawn again, middle 95 %"), ("random", "two halves, middle 95 %")),
    )


def _panels(view: View, rows: Sequence[SetConfidence], chosen: str) -> list[tuple[str, list[Lane]]]:
    """Languages by modality, one panel each, then the chosen set and others by name."""
    cells = {row.name: row for row in rows if row.cell}
    found = []
    for modality in view.modalities:
        there = [(code, cells.get(f"{code}/{modality}")) for code in view.languages]
        lanes = [_lane(language_name(code), row) for code, row in there if row is not None]
        if lanes:
            found.append((modality_name(modality), lanes))
    named = [row for row in rows if row.name == chosen or not row.cell]
    others = sorted(named, key=lambda row: (row.name != chosen, ":" in row.name))[:OTHERS]
    if others:
        found.append(("chosen set, and others", [_lane(row.name, row) for row in others]))
    return found


def _drawn(title: str, lanes: Sequence[Lane]) -> Markup:
    label = f"How sure is the set, {title}"
    return marks_plot(label, lanes, unit(*PLOT), depth=2, unit="Jaccard, %", head="p of the size")


def _lane(label: str, row: SetConfidence) -> Lane:
    marks = (
        _mark("suppressed", row.bootstrap, f"{row.name}, drawn again", 0),
        _mark("random", row.halves, f"{row.name}, two halves", 1),
    )
    return Lane(label, marks, p_text(row.p_value))


def _mark(kind: str, spread: Spread, what: str, lane: int) -> Mark:
    mean, low, high = (nan if v is None else v for v in (spread.mean, spread.low, spread.high))
    tip = f"{what}: Jaccard {percent(spread.mean)} {span(spread.low, spread.high)}"
    return Mark(kind, mean, low, high, tip=tip, lane=lane)


def _sets_table(sets: Sequence[SetConfidence]) -> Table:
    rows: Rows = [
        [
            row.name,
            whole(row.size),
            _spread(row.bootstrap),
            share(row.inclusion),
            whole(row.core),
            _spread(row.halves),
            _spread(row.shuffled_size, 1),
            p_entry(row.p_value),
            p_entry(row.p_holm) if row.cell else Entry("–"),
        ]
        for row in sets
    ]
    columns = [
        "set", "size", "Jaccard, data drawn again", "a neuron is drawn again", "in 90 % of draws",
        "Jaccard, two halves", "size, labels shuffled", "p of the size", "p, Holm over cells",
    ]  # fmt: skip
    note = "Means with the middle 95 % of the draws. p = (1 + #{shuffled >= found}) / (1 + draws)."
    return table("How sure is each set", columns, rows, note)


def _spread(spread: Spread, digits: int = 2) -> Entry:
    if not known(spread.mean):
        return Entry(number(None))
    low, high = number(spread.low, digits), number(spread.high, digits)
    return Entry(f"{number(spread.mean, digits)} [{low}, {high}]", spread.mean)


def _scores_figure(found: Confidence) -> Figure | None:
    if not found.scores:
        return None
    names = list(dict.fromkeys(name for row in found.scores for name in (row.a, row.b)))
    pairs = {frozenset((row.a, row.b)): row for row in found.scores}
    panels = (
        Panel("sets: Jaccard", _matrix(names, pairs, "jaccard")),
        Panel("ranks: Spearman's correlation", _matrix(names, pairs, "rank")),
    )
    skipped = f" Not collected: {', '.join(found.skipped)}." if found.skipped else ""
    return Figure(
        "scores",
        "Do other scores find the same neurons",
        "Every pair of scores at the same p, means over languages and modalities." + skipped,
        panels,
        _scores_table(found.scores),
    )


def _matrix(names: Sequence[str], pairs: dict[frozenset[str], ScoreAgreement], what: str) -> Markup:
    squares: list[list[Square | None]] = []
    for a in names:
        row: list[Square | None] = []
        for b in names:
            pair = pairs.get(frozenset((a, b)))
            if a == b or pair is None:
                row.append(None)
                continue
            value = pair.jaccard if what == "jaccard" else pair.rank
            size = nan if value is None else value
            tip = f"{a} and {b}: {number(value)}, chance {number(pair.chance)}"
            shown = max(0.0, size) if isfinite(size) else nan
            row.append(Square(shown, number(value) if isfinite(size) else "–", tip=tip))
        squares.append(row)
    heads = [name.replace("_", "-") for name in names]
    return heat_map(f"Agreement of scores, {what}", heads, heads, squares, "share")


def _scores_table(scores: Sequence[ScoreAgreement]) -> Table:
    rows: Rows = [
        [
            row.a, row.b, whole(row.cells), real(row.jaccard),
            f"{number(row.low)} to {number(row.high)}", real(row.chance), real(row.rank),
        ]
        for row in scores
    ]  # fmt: skip
    columns = [
        "score", "beside", "cells", "Jaccard", "lowest to highest cell", "by chance", "rank",
    ]  # fmt: skip
    return table("Agreement between scores", columns, rows)

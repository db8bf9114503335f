"""The figure on headroom: what linear probes tell apart, layer by layer and cell by cell."""

from __future__ import annotations

from math import nan

from markupsafe import Markup

from precise_shield.core.summary.headroom import HeadroomRow, ProbeContrast
from precise_shield.report.drawing.charts import BOX, Series, Square, heat_map, line_chart
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.drawing.svg import Axis, steps
from precise_shield.report.neurons.anatomy import DENSE
from precise_shield.report.numbers.finding import Finding, Tone
from precise_shield.report.numbers.tables import Entry, Rows, Table, p_entry, real, table, whole
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import (
    known,
    language_name,
    modality_name,
    named_modalities,
    number,
    p_text,
)

_AUC = (0.0, 0.25, 0.5, 0.75, 1.0)

NAMES: dict[ProbeContrast, str] = {
    "matched": "topic-matched benign",
    "ordinary": "other benign",
}


def headroom_figure(view: View) -> Figure | None:
    """AUC over depth before and after tuning, and each cell's at the best layer."""
    found = view.summary.explained.headroom
    if found is None or not found.rows:
        return None
    positions = list(dict.fromkeys(row.position for row in found.rows))
    panels = []
    for at in positions:
        for contrast in NAMES:
            rows = [r for r in found.rows if (r.position, r.contrast) == (at, contrast)]
            means = [r for r in rows if r.language is None]
            if not means:
                continue
            name = f"harmful against {NAMES[contrast]}"
            name += f", {at}" if len(positions) > 1 else ""
            panels += [Panel(name, _lines(rows, name)), Panel(f"{name}, by cell", _map(view, rows))]
    return Figure(
        "headroom",
        "Can the model tell a hazard from its harmless twin?",
        "AUC of linear probes on the residual stream, fitted on some requests and tested on"
        " others; 0.5 is guessing. Maps: the untouched model at its best layer on average; cells"
        " no better than shuffled labels are marked with a question mark.",
        tuple(panels),
        _table(view),
        (
            ("base", "untouched, mean over cells (fine: single cells)"),
            ("aligned", "tuned, mean over cells"),
            ("random", "shuffled labels, 95 % point"),
        ),
    )


def _points(values: list[float | None]) -> tuple[tuple[float, float], ...]:
    return tuple((float(k), nan if v is None else v) for k, v in enumerate(values))


def _lines(rows: list[HeadroomRow], name: str) -> Markup:
    left, right, lower, upper = BOX
    series, dots = [], len(rows[0].auc) <= DENSE
    for row in rows:
        base = row.condition == "base"
        if row.language is not None and base:
            label = f"{language_name(row.language)}, {modality_name(row.modality)}"
            series.append(Series(label, "base", _points(row.auc), faint=True))
        elif row.language is None:
            kind = "base" if base else "aligned"
            if base:
                level = _points(row.shuffled_high)
                series.append(Series("shuffled labels, 95 %", "random", level, dots=dots))
            series.append(Series(row.condition, kind, _points(row.auc), dots=dots))
    x = steps(len(rows[0].auc) - 1, left, right)
    y = Axis(0.0, 1.0, lower, upper, _AUC)
    return line_chart(f"AUC by layer, {name}", series, x, y, "layer", "AUC")


def _map(view: View, rows: list[HeadroomRow]) -> Markup:
    base = [r for r in rows if r.condition == "base"]
    mean = next(r for r in base if r.language is None)
    layer = mean.best_layer or 0
    cells = {(r.language, r.modality): r for r in base if r.language is not None}
    languages = [la for la in view.languages if any(place[0] == la for place in cells)]
    squares: list[list[Square | None]] = []
    for language in languages:
        line: list[Square | None] = []
        for modality in view.modalities:
            row = cells.get((language, modality))
            line.append(None if row is None else _square(row, layer))
        squares.append(line)
    names = [language_name(code) for code in languages]
    columns = [modality_name(m) for m in view.modalities]
    return heat_map(f"AUC by cell in layer {layer}", names, columns, squares, "share")


def _square(row: HeadroomRow, layer: int) -> Square:
    value, low, high = row.auc[layer], row.low[layer], row.high[layer]
    tip = (
        f"{language_name(row.language)}, {modality_name(row.modality)}, layer {layer}: AUC"
        f" {number(value)} [{number(low)}, {number(high)}], {row.harmful} harmful and {row.benign}"
        f" benign groups; best layer {row.best_layer}, p = {p_text(row.p_value)}: {row.verdict}"
    )
    if value is None:
        return Square(nan, "undef.", tip=tip)
    doubt = "" if row.verdict == "apart" else " ?"
    return Square(max(0.0, 2 * value - 1), f"{value:.2f}{doubt}", tip=tip)


def _table(view: View) -> Table:
    found = view.summary.explained.headroom
    rows: Rows = []
    for row in found.rows if found else []:
        k = row.best_layer or 0
        rows.append(
            [
                view.label(row.condition),
                row.position,
                NAMES[row.contrast],
                language_name(row.language),
                modality_name(row.modality),
                whole(row.fitted),
                row.fitted_on,
                whole(row.harmful),
                whole(row.benign),
                whole(k),
                Entry(
                    f"{number(row.auc[k])} [{number(row.low[k])}, {number(row.high[k])}]",
                    row.auc[k],
                ),
                real(row.shuffled[k]),
                real(row.shuffled_high[k]),
                p_entry(row.p_value),
                row.verdict,
            ]
        )
    columns = [
        "condition", "position", "against", "language", "modality", "rows fitted", "fitted on",
        "harmful groups", "benign groups", "best layer", "AUC there [95 %]",
        "labels shuffled", "their 95 % point", "p, best of all layers", "verdict",
    ]  # fmt: skip
    note = (
        ""
        if found is None
        else f"Ridge probes, penalty {found.shrinkage:g} of the mean eigenvalue; {found.draws}"
        " shuffles by group. p compares the best layer with each shuffle's best layer and is not"
        " corrected for the number of cells. Every layer is in summary.json."
    )
    return table("Linear probes at their best layer", columns, rows, note)


def headroom_finding(view: View) -> Finding | None:
    """The sentence on headroom, with its tone."""
    found = view.summary.explained.headroom
    if found is None:
        return None
    sentence = named_modalities(found.sentence)
    means = {r.contrast: r for r in found.rows if r.language is None and r.condition == "base"}
    hardest = means.get("matched") or means.get("ordinary")
    if hardest is None or not known(hardest.p_value):
        return Finding("Headroom", "unclear", sentence)
    tone: Tone = "good" if hardest.verdict == "apart" else "bad"
    return Finding("Headroom", tone, sentence)

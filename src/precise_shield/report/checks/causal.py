"""The causal check in detail: dose, rival sets, set by cell, and deciding or writing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, nan

from precise_shield.core.summary import (
    Causal,
    DosePoint,
    MatrixCell,
    PanelReading,
    Rival,
)
from precise_shield.report.checks.roles import roles_figure
from precise_shield.report.drawing.charts import (
    PLOT,
    Lane,
    Mark,
    Series,
    Square,
    heat_map,
    line_chart,
    marks_plot,
)
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.drawing.svg import linear
from precise_shield.report.numbers.finding import Finding
from precise_shield.report.numbers.tables import Entry, Rows, Table, p_entry, real, table, whole
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import (
    MINUS,
    count,
    language_name,
    modality_name,
    number,
    p_text,
    signed,
    small,
)

ALPHA = 0.05
_EDITS = {"zero": "0", "benign_mean": "their benign mean"}
_PLACES = {
    "all": "at every token",
    "prompt": "at the prompt's tokens",
    "context": "at the prompt's tokens but the last",
    "first_decision": "at the prompt's last token",
}
Measured = Callable[[PanelReading], float | None]


def causal_figures(view: View) -> list[Figure | None]:
    """Every part that was measured."""
    found = _found(view)
    if found is None:
        return []
    return [_dose(found), _rivals(found), _matrix(view, found), roles_figure(found)]


def causal_tables(view: View) -> list[Table]:
    """The same as tables."""
    return [figure.table for figure in causal_figures(view) if figure is not None]


def _found(view: View) -> Causal | None:
    check = view.summary.verification
    return None if check is None else check.causal


def _edit(found: Causal) -> str:
    return f"{_EDITS.get(found.edit, found.edit)} {_PLACES.get(found.scope, found.scope)}"


def _measures(readings: Sequence[PanelReading]) -> list[tuple[str, Measured]]:
    """What is drawn: the log-odds where the model refused and where it did not, and the drift."""
    split: list[tuple[str, Measured]] = [
        ("Refusal log-odds, refused requests", lambda r: r.refused),
        ("Refusal log-odds, answered requests", lambda r: r.complied),
    ]
    shown = [each for each in split if any(each[1](r) is not None for r in readings)]
    if not shown:
        shown = [("Refusal log-odds", lambda r: r.log_odds)]
    if any(r.kl is not None for r in readings):
        shown.append(("Benign drift: KL, nats a token", lambda r: r.kl))
    return shown


def _value(measured: Measured, reading: PanelReading) -> float:
    value = measured(reading)
    return nan if value is None else value


def _dose(found: Causal) -> Figure | None:
    points, facts = found.dose, found.panel
    if len(points) < 2 or facts is None:
        return None
    everything = [r for point in points for r in (point.chosen, *point.random)]
    x = linear([point.factor for point in points], 58.0, 330.0)
    panels = []
    for title, measured in _measures(everything):
        values = [_value(measured, reading) for reading in everything]
        y = linear(values, 190.0, 24.0, zero=False)
        series = [Series("safety set", "suppressed", _line(points, measured, None))]
        sets = min(len(point.random) for point in points)
        series += [
            Series(f"random set {k + 1}", "random", _line(points, measured, k), faint=True)
            for k in range(sets)
        ]
        panels.append(Panel(title, line_chart(title, series, x, y, "times the activation", "nats")))
    return Figure(
        "dose",
        "Dose-response",
        f"The neurons' activations times a factor, {_PLACES.get(found.scope, found.scope)}: 0"
        f" switches them off, 1 is the untouched model. {facts.refused} of {facts.harmful} harmful"
        f" prompts are refused by the untouched model; {facts.benign} benign answers.",
        tuple(panels),
        _dose_table(points),
        (("suppressed", "safety set"), ("random", "matched random sets")),
    )


def dose_findings(view: View) -> list[Finding]:
    """What amplifying does to requests that are answered: the variant without training."""
    found = _found(view)
    points = [point for point in found.dose if 1 < point.factor <= 2] if found else []
    if not points or found is None or found.panel is None:
        return []
    point, base = max(points, key=lambda each: each.factor), found.panel.untouched

    def rise(reading: PanelReading) -> float:
        if reading.complied is None or base.complied is None:
            return reading.log_odds - base.log_odds
        return reading.complied - base.complied

    own, random = rise(point.chosen), [rise(reading) for reading in point.random]
    beyond = own > 0 and own > max(random)
    words = (
        f"Times {point.factor:g}, the refusal log-odds of requests that the untouched model answers"
        f" move by {signed(own, 2, plus=True)} nats, random sets' by {_range(random)}"
        f" ({len(random)} sets, too few for a test); benign KL {small(point.chosen.kl)}."
    )
    return [Finding("Amplified", "unclear" if beyond else "bad", words)]


def _line(
    points: Sequence[DosePoint], measured: Measured, place: int | None
) -> tuple[tuple[float, float], ...]:
    return tuple(
        (point.factor, _value(measured, point.chosen if place is None else point.random[place]))
        for point in points
    )


def _dose_table(points: Sequence[DosePoint]) -> Table:
    rows: Rows = []
    for point in points:
        odds = [reading.log_odds for reading in point.random]
        drift = [reading.kl for reading in point.random if reading.kl is not None]
        rows.append(
            [
                Entry(f"{point.factor:g}", point.factor), real(point.chosen.log_odds),
                _range(odds), real(point.chosen.refused), real(point.chosen.complied),
                _tiny(point.chosen.kl), _range(drift, small), real(point.chosen.perplexity),
            ]
        )  # fmt: skip
    columns = [
        "factor", "log-odds", "random, range", "on refused", "on answered", "benign KL",
        "random, range", "benign perplexity",
    ]  # fmt: skip
    return table("Dose-response on the panel", columns, rows)


def _tiny(value: float | None) -> Entry:
    return Entry(small(value), value)


def _range(values: Sequence[float], shown: Callable[[float], str] = number) -> str:
    return f"{shown(min(values))} to {shown(max(values))}" if values else "not measured"


def _rivals(found: Causal) -> Figure | None:
    rivals, facts = found.rivals, found.panel
    if not rivals or facts is None:
        return None
    readings = [reading for rival in rivals for reading in rival.readings]
    panels = []
    for title, measured in _measures([facts.untouched, *readings]):
        base = _value(measured, facts.untouched)
        axis = linear([base, *(_value(measured, r) for r in readings)], *PLOT, zero=False)
        head = "p" if title.endswith(("refused requests", "log-odds")) else ""
        lanes = [_rival_lane(rival, measured, base, bool(head)) for rival in rivals]
        panels.append(Panel(title, marks_plot(title, lanes, axis, 1, "nats", head)))
    return Figure(
        "rivals",
        "Rival sets switched off",
        f"Other neurons set to {_edit(found)}, on the prompts of the dose-response: random ones,"
        " ones of equal importance by the score that selected, and what was left out of the set.",
        tuple(panels),
        _rivals_table(rivals),
        (
            ("base", "untouched"),
            ("suppressed", "mean of the sets"),
            ("ticks", "each set"),
        ),
    )


_SHORT = {"chosen": "safety set", "random": "random", "equal_importance": "as important"}


def _rival_lane(rival: Rival, measured: Measured, base: float, tested: bool) -> Lane:
    values = [_value(measured, reading) for reading in rival.readings]
    finite = [value for value in values if isfinite(value)]
    mean = sum(finite) / len(finite) if finite else nan
    tip = f"{rival.label}, {count(rival.neurons)} neurons: {number(mean)}"
    marks = (
        Mark("base", base, tip=f"untouched {number(base)}"),
        Mark("suppressed", mean, tip=tip),
    )
    end = p_text(rival.p_value) if tested and rival.p_value is not None else ""
    name = _SHORT.get(rival.kind, rival.label)
    strip = tuple(finite) if len(finite) > 1 else ()
    return Lane(name, marks, end, rival.kind == "chosen", strip, f"{len(finite)} sets")


def _rivals_table(rivals: Sequence[Rival]) -> Table:
    rows: Rows = []
    for rival in rivals:
        odds = [reading.log_odds for reading in rival.readings]
        refused = [reading.refused for reading in rival.readings if reading.refused is not None]
        drift = [reading.kl for reading in rival.readings if reading.kl is not None]
        perplexity = [r.perplexity for r in rival.readings if r.perplexity is not None]
        rows.append(
            [
                rival.label, whole(len(rival.readings)), whole(rival.neurons), _mean(odds),
                _mean(refused), _mean(drift, small), _mean(perplexity), p_entry(rival.p_value),
            ]
        )  # fmt: skip
    columns = [
        "sets", "how many", "neurons", "log-odds, mean", "on refused, mean", "benign KL, mean",
        "perplexity, mean", "p of the chosen",
    ]  # fmt: skip
    note = (
        "not chosen: selected in some cell, but not in the set. rest of top: in the top p for"
        " harmful requests, but selected nowhere, being in the top for benign ones too."
    )
    return table("Rival sets, suppressed like the chosen one", columns, rows, note)


def _mean(values: Sequence[float], shown: Callable[[float], str] = number) -> Entry:
    if not values:
        return Entry("not measured")
    mean = sum(values) / len(values)
    return Entry(shown(mean), mean)


def excess(cell: MatrixCell) -> float:
    """How far a set lowers the log-odds beyond the mean of its random sets, in nats."""
    return sum(cell.random) / len(cell.random) - cell.suppressed


def _matrix(view: View, found: Causal) -> Figure | None:
    if not found.matrix:
        return None
    names = list(dict.fromkeys(cell.of for cell in found.matrix))
    most = max(max(excess(cell) for cell in found.matrix), 1e-9)
    panels = []
    for modality in view.modalities:
        here = {(c.of, c.language): c for c in found.matrix if c.modality == modality}
        if here:
            squares = [
                [_matrix_square(here.get((name, lang)), most) for lang in view.languages]
                for name in names
            ]
            title = f"Read in {modality_name(modality)}"
            label = f"Refusal log-odds lost, {title}, set by language"
            rows = [_brief(name) for name in names]
            panels.append(Panel(title, heat_map(label, rows, view.languages, squares, "risk")))
    cells = len(found.matrix)
    least = min(1.0, cells / (1 + len(found.matrix[0].random)))
    reach = f" (no p can go below {least:.2g} with so few random sets)" if least > ALPHA else ""
    sure = sum(c.p_holm is not None and c.p_holm <= ALPHA for c in found.matrix)
    return Figure(
        "matrix",
        "Whose neurons carry whose refusal",
        "Nats of refusal log-odds that switching off a row's set costs in a column's language,"
        f" beyond its own random sets. After Holm's correction {sure} of {cells} cells pass"
        f" p ≤ {ALPHA}{reach}.",
        tuple(panels),
        _matrix_table(found.matrix),
    )


def _brief(name: str) -> str:
    """`MS−SS:sw` for `MS:sw - SS:sw`: row labels are narrow."""
    language = name.rsplit(":", 1)[-1]
    brief = f"MS{MINUS}SS:{language}"
    return brief if name == _rest(f"SS:{language}") else name.replace(" - ", MINUS)


def matrix_findings(view: View) -> list[Finding]:
    """Shared neurons against what is left of a language's own: whose refusal do they cost?"""
    found = _found(view)
    cells = found.matrix if found else []
    names = {cell.of for cell in cells}
    shared = sorted(name for name in names if name.startswith("SS:"))
    pairs = [(name, rest) for name in shared if (rest := _rest(name)) in names]
    if not pairs:
        return []
    parts = []
    for what, place in (("shared with the anchor (SS)", 0), ("left of MS without them", 1)):
        sets = [pair[place] for pair in pairs]
        own, others = _losses(cells, sets)
        size = sum({c.of: c.neurons for c in cells}[name] for name in sets) / len(sets)
        parts.append(
            f"those {what}, {size:.0f} on average, cost {number(own)} nats in their language and"
            f" {number(others)} elsewhere"
        )
    words = f"Over {len(pairs)} languages, beyond random sets: {'; '.join(parts)}."
    return [Finding("Shared or private", "unclear", words)]


def _rest(shared: str) -> str:
    return f"MS:{shared.removeprefix('SS:')} - {shared}"


def _losses(cells: Sequence[MatrixCell], names: Sequence[str]) -> tuple[float, float]:
    """Mean loss in the sets' own languages and in the others."""
    here = [
        (cell, cell.of.rsplit(":", 1)[1] == cell.language) for cell in cells if cell.of in names
    ]
    sides = ([excess(cell) for cell, own in here if own is side] for side in (True, False))
    own, others = (sum(side) / len(side) if side else nan for side in sides)
    return own, others


def _matrix_square(cell: MatrixCell | None, most: float) -> Square | None:
    if cell is None:
        return None
    lost = excess(cell)
    tip = (
        f"{cell.of} off, {language_name(cell.language)}: {number(cell.suppressed)} against"
        f" {number(cell.base)} untouched and {number(cell.suppressed + lost)} with random sets off;"
        f" p = {p_text(cell.p_value)}, Holm {p_text(cell.p_holm)}, n={cell.n}"
    )
    return Square(max(0.0, lost / most), signed(lost, 1), tip=tip)


def _matrix_table(cells: Sequence[MatrixCell]) -> Table:
    rows: Rows = [
        [
            cell.of, whole(cell.neurons), language_name(cell.language),
            modality_name(cell.modality), whole(cell.n), real(cell.base), real(cell.suppressed),
            real(cell.suppressed + excess(cell)), real(excess(cell)), p_entry(cell.p_value),
            p_entry(cell.p_holm),
        ]
        for cell in cells
    ]  # fmt: skip
    columns = [
        "set off", "neurons", "language", "modality", "n", "untouched", "suppressed",
        "random, mean", "lost beyond random", "p", "p (Holm)",
    ]  # fmt: skip
    return table("Refusal log-odds, set by cell", columns, rows)

"""The figures on neurons: where they sit, how the choice of p matters, what was trained."""

from __future__ import annotations

from math import nan

from markupsafe import Markup

from precise_shield.core.records import Modality
from precise_shield.core.summary import Receipt, SetFacts
from precise_shield.report.drawing.charts import (
    BOX,
    PLOT,
    Lane,
    Mark,
    Series,
    line_chart,
    marks_plot,
)
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.drawing.svg import Axis, linear, logarithmic, steps, unit
from precise_shield.report.neurons.overlap import cell_sets
from precise_shield.report.numbers.tables import (
    Entry,
    Rows,
    Table,
    real,
    receipts_table,
    table,
    whole,
)
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import (
    count,
    is_high_resource,
    language_name,
    listed,
    modality_name,
    tiny_share,
)
from precise_shield.report.safety.figures import GLYPHS

DENSE = 24
"""From more layers on, lines go without marks."""


def depth_figure(view: View) -> Figure | None:
    """Where in depth the sets sit: mean of the high-resource languages and of the others."""
    sets = cell_sets(view)
    chosen = [s for s in view.summary.neurons.sets if s.name == view.summary.neurons.chosen]
    places = [m for m in view.modalities if any(key[1] == m for key in sets)]
    counts = [n for facts in [*sets.values(), *chosen] for n in facts.by_layer]
    if not counts:
        return None
    left, right, lower, upper = BOX
    layers = max(len(s.by_layer) for s in [*sets.values(), *chosen])
    x = steps(layers - 1, left, right)
    panels, rows = [], []
    y = linear([0.0, *map(float, _tops(sets))], lower, upper)
    for modality in places:
        series, groups = _depth_series(sets, modality)
        label = f"Neurons a layer, {modality_name(modality)}"
        chart = line_chart(label, series, x, y, "layer", "neurons")
        panels.append(Panel(modality_name(modality), chart))
        rows += _depth_rows(modality_name(modality), groups)
    for facts in chosen[:1]:
        points = tuple((float(k), float(n)) for k, n in enumerate(facts.by_layer))
        own = linear([0.0, *map(float, facts.by_layer)], lower, upper)
        line = Series(facts.name, "suppressed", points, dots=layers <= DENSE)
        chart = line_chart(f"Neurons a layer, {facts.name}", [line], x, own, "layer", "neurons")
        panels.append(Panel(f"chosen set: {facts.name} ({count(facts.size)} neurons)", chart))
        rows += _depth_rows(facts.name, {"chosen set": [float(n) for n in facts.by_layer]})
    numbers = table("Neurons a layer, mean of the group", ["set", "group", "layer", "mean"], rows)
    legend = []
    if view.high_resource:
        legend.append(("aligned", f"mean of {listed(view.high_resource)} (HRL)"))
    if view.others:
        legend.append(("zero", "mean of the others"))
    return Figure(
        "depth",
        "Depth profile",
        "Layer 0 is the first; fine lines are single languages.",
        tuple(panels),
        numbers,
        tuple(legend),
    )


def _tops(sets: dict[tuple[str, Modality], SetFacts]) -> list[int]:
    return [max(facts.by_layer, default=0) for facts in sets.values()]


def _depth_series(
    sets: dict[tuple[str, Modality], SetFacts], modality: Modality
) -> tuple[list[Series], dict[str, list[float]]]:
    series, groups = [], {}
    for high, kind, name in ((True, "aligned", "HRL"), (False, "zero", "others")):
        members = [
            (language, facts.by_layer)
            for (language, place), facts in sets.items()
            if place == modality and is_high_resource(language) == high
        ]
        if not members:
            continue
        for language, layers in members:
            points = tuple((float(k), float(n)) for k, n in enumerate(layers))
            series.append(Series(language_name(language), kind, points, faint=True))
        depth = max(len(layers) for _, layers in members)
        columns = [[ls[k] for _, ls in members if k < len(ls)] for k in range(depth)]
        means = [sum(column) / len(column) for column in columns]
        groups[name] = means
        points = tuple((float(k), mean) for k, mean in enumerate(means))
        series.append(Series(name, kind, points, dots=depth <= DENSE))
    return series, groups


def _depth_rows(name: str, groups: dict[str, list[float]]) -> Rows:
    return [
        [name, group, whole(layer), real(mean, 1)]
        for group, means in groups.items()
        for layer, mean in enumerate(means)
    ]


def curve_figure(view: View) -> Figure | None:
    """Size and stability of the chosen set at every p of the sweep."""
    points = sorted(view.summary.neurons.curve, key=lambda point: point.p)
    if not points:
        return None
    left, right, lower, upper = BOX
    x = logarithmic([100 * point.p for point in points], left, right)
    sizes = tuple((100 * point.p, float(point.size)) for point in points)
    halves = tuple(
        (100 * point.p, nan if point.split_half is None else point.split_half) for point in points
    )
    size_axis = linear([n for _, n in sizes], lower, upper)
    panels = (
        Panel(
            "size of the chosen set",
            line_chart(
                "Size against p", [Series("size", "aligned", sizes)], x, size_axis,
                "p, % of a layer's units (log scale)", "neurons",
            ),
        ),
        Panel(
            "agreement of two halves of the data",
            line_chart(
                "Split-half agreement against p", [Series("agreement", "zero", halves)], x,
                unit(lower, upper), "p, % of a layer's units (log scale)", "Jaccard, %",
            ),
        ),
    )  # fmt: skip
    total = view.summary.model.neurons
    rows: Rows = [
        [
            Entry(f"{100 * point.p:g}%", point.p),
            whole(point.size),
            tiny_share(point.size, total),
            real(point.split_half),
        ]
        for point in points
    ]
    numbers = table("The sweep over p", ["p", "size", "of all units", "split-half Jaccard"], rows)
    lead = f"Primary p = {100 * view.summary.neurons.p:g} %; the rest of the curve is shown whole."
    return Figure("curve", "The choice of p", lead, panels, numbers)


def sets_table(view: View) -> Table:
    """Every set: size, chance size and stability."""
    total = view.summary.model.neurons
    rows: Rows = [
        [
            facts.name,
            whole(facts.size),
            tiny_share(facts.size, total),
            real(facts.shuffled_size, 1),
            real(facts.split_half),
            _peaks(facts),
        ]
        for facts in view.summary.neurons.sets
    ]
    columns = ["set", "size", "of all units", "size, labels shuffled", "split-half Jaccard", "peak"]
    found = view.summary.neurons.sets
    if any(len(facts.by_kind) > 1 for facts in found):
        columns.append("kinds of units")
        for row, facts in zip(rows, found, strict=True):
            row.append(listed([f"{kind} {n}" for kind, n in facts.by_kind.items() if n], 9))
    return table("Neuron sets", columns, rows)


def _peaks(facts: SetFacts) -> str:
    top = max(facts.by_layer, default=0)
    if not top:
        return "none"
    return "layer " + listed([str(k) for k, n in enumerate(facts.by_layer) if n == top], 3)


def weights_figure(view: View) -> Figure | None:
    """Trained and changed numbers of weights beside the whole model."""
    receipts = view.summary.receipts
    if not receipts:
        return None
    values = [float(n) for r in receipts for n in (r.trained_b_rows, r.model_parameters)]
    axis = logarithmic(values, *PLOT)
    panels = [Panel(view.label(r.condition), _weights_plot(r, view, axis)) for r in receipts]
    return Figure(
        "weights",
        "Weights trained and changed",
        "Each step of the scale is ten times the one before it.",
        tuple(panels),
        receipts_table(receipts, view),
    )


def _weights_plot(receipt: Receipt, view: View, axis: Axis) -> Markup:
    kinds = {c.name: c.kind for c in view.summary.conditions}
    trained = {"rows of B": receipt.trained_b_rows, "with A": receipt.trained_with_a}
    counts = {
        **(trained if receipt.rank else {"trained": receipt.trained_with_a}),
        "changed": receipt.changed_weights,
        "whole model": receipt.model_parameters,
    }
    lanes = []
    for name, value in counts.items():
        glyph = "base" if name == "whole model" else GLYPHS[kinds.get(receipt.condition, "aligned")]
        size = float(value) if value else nan
        mark = Mark(glyph, size, tip=f"{name}: {count(value)}", stem=True)
        lanes.append(Lane(name, (mark,), _compact(value)))
    label = f"Weights trained and changed, {view.label(receipt.condition)}"
    return marks_plot(label, lanes, axis, unit="weights (log scale)")


def _compact(value: int) -> str:
    for size, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return str(value)

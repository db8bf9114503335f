"""The figures on counts: over depth by unit kind, private or shared, against attack success."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from markupsafe import Markup

from precise_shield.core.summary.explained import CountTest, Decomposition, DepthRow
from precise_shield.report.drawing.charts import (
    BOX,
    PLOT,
    Lane,
    Mark,
    Series,
    framed,
    glyph,
    line_chart,
    marks_plot,
)
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.drawing.svg import Axis, label_width, linear, steps, tag, text, unit
from precise_shield.report.neurons.anatomy import DENSE, depth_figure
from precise_shield.report.neurons.overlap import place_of
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
    is_high_resource,
    known,
    language_name,
    listed,
    modality_name,
    number,
    p_text,
    percent,
    signed,
)

KINDS = {
    "ffn": "feed-forward",
    "expert": "experts",
    "query": "queries",
    "key": "keys",
    "value": "values",
    "attention": "attention output",
}


def kind_name(kind: str) -> str:
    """What a reader calls a kind of unit."""
    return KINDS.get(kind, kind)


def profile_figure(view: View) -> Figure | None:
    """Neurons a layer by unit kind, beside shuffled labels; without a profile, the plain figure."""
    plain = depth_figure(view)
    found = view.summary.neurons.profile
    if found is None or not found.depth:
        return plain
    rows = found.depth
    kinds = sorted({row.kind for row in rows})
    panels = []
    for kind in kinds:
        for modality in view.modalities:
            here = [row for row in rows if (row.kind, row.modality) == (kind, modality)]
            if here:
                title = modality_name(modality)
                title += f", {kind_name(kind)} units" if len(kinds) > 1 else ""
                panels.append(Panel(title, _depth_chart(here, title)))
    if plain is not None:
        panels += [panel for panel in plain.panels if panel.title.startswith("chosen set")]
    legend = [
        ("aligned", f"mean of {listed(view.high_resource)} (HRL)"),
        ("zero", "mean of the others"),
        ("random", "labels shuffled, all languages"),
    ]
    present = {"aligned" for row in rows if row.group == "high_resource"}
    present |= {"zero" for row in rows if row.group == "other"} | {"random"}
    return Figure(
        "depth",
        "Depth profile",
        "Neurons a layer, beside what shuffled labels give. Layer 0 is the first; fine lines are"
        " single languages.",
        tuple(panels),
        _depth_table(view),
        tuple((kind, words) for kind, words in legend if kind in present),
    )


def _depth_chart(rows: list[DepthRow], title: str) -> Markup:
    left, right, lower, upper = BOX
    layers = rows[0].layers
    tops = [float(n) for row in rows for one in row.by_language for n in one]
    series = []
    for row in rows:
        kind = "aligned" if row.group == "high_resource" else "zero"
        for language, counts in zip(row.languages, row.by_language, strict=True):
            points = tuple(zip(map(float, layers), map(float, counts), strict=True))
            series.append(Series(language_name(language), kind, points, faint=True))
        points = tuple(zip(map(float, layers), row.counts, strict=True))
        name = "HRL" if row.group == "high_resource" else "others"
        series.append(Series(name, kind, points, dots=len(layers) <= DENSE))
    chance = _everyone(rows)
    points = tuple(zip(map(float, layers), chance, strict=True))
    series.append(Series("labels shuffled", "random", points, dots=len(layers) <= DENSE))
    x = steps(max(layers, default=0), left, right)
    y = linear([0.0, *tops, *[value for value in chance if known(value)]], lower, upper)
    return line_chart(f"Neurons a layer, {title}", series, x, y, "layer", "neurons")


def _everyone(rows: list[DepthRow]) -> list[float]:
    """Mean count a language under shuffled labels, both groups together."""
    total = sum(len(row.languages) for row in rows)
    levels = []
    for k in range(len(rows[0].layers)):
        parts = [(row.shuffled[k], len(row.languages)) for row in rows]
        values = [nan if value is None else value * size for value, size in parts]
        levels.append(sum(values) / total)
    return levels


def _depth_table(view: View) -> Table:
    found = view.summary.neurons.profile
    rows: Rows = [
        [
            kind_name(row.kind),
            modality_name(row.modality),
            "high-resource" if row.group == "high_resource" else "others",
            whole(layer),
            real(count, 1),
            real(chance, 1),
        ]
        for row in (found.depth if found else [])
        for layer, count, chance in zip(row.layers, row.counts, row.shuffled, strict=True)
    ]
    tests = [
        f"{kind_name(t.kind)}, {modality_name(t.modality)}: {signed(t.difference, 1, plus=True)}"
        f" neurons (p = {p_text(t.p_value)}, {t.relabellings} relabellings)"
        for t in (found.groups if found else [])
        if t.difference is not None
    ]
    columns = ["units", "modality", "languages", "layer", "mean", "labels shuffled"]
    note = f"High-resource minus others, all layers: {'; '.join(tests)}." if tests else ""
    return table("Neurons a layer, mean of the group", columns, rows, note)


def private_figure(view: View) -> Figure | None:
    """What each language has alone and what all have, beside shuffled labels."""
    found = view.summary.neurons.profile
    parts = {} if found is None else {place_of(d.name): d for d in found.decompositions}
    panels = []
    for modality in view.modalities:
        lanes = [
            _private_lane(language, parts[language, modality])
            for language in view.languages
            if (language, modality) in parts and parts[language, modality].private is not None
        ]
        if lanes:
            title = modality_name(modality)
            plot = marks_plot(f"Private and shared, {title}", lanes, unit(*PLOT), 2, "%", "private")
            panels.append(Panel(title, plot))
    if not panels:
        return None
    return Figure(
        "private",
        "What a language has alone, and what all have",
        "Share of a language's set that no other language has (upper mark) and that every language"
        " has (lower mark); squares: the same when all labels are shuffled.",
        tuple(panels),
        _private_table(view),
        (
            ("suppressed", "private: in no other language's set"),
            ("aligned", "in every language's set"),
            ("random", "labels shuffled"),
        ),
    )


def _private_lane(language: str, d: Decomposition) -> Lane:
    marks = []
    for lane, (kind, name, value, chance) in enumerate(
        [
            ("suppressed", "private", d.private, d.private_shuffled),
            ("aligned", "in all", d.everywhere, d.everywhere_shuffled),
        ]
    ):
        level = nan if chance is None else chance
        marks.append(Mark("random", level, tip=f"{name}, shuffled: {percent(chance)}", lane=lane))
        tip = f"{language_name(language)}, {name}: {percent(value)} of {d.size}"
        marks.append(Mark(kind, nan if value is None else value, tip=tip, lane=lane))
    return Lane(language_name(language), tuple(marks), percent(d.private, 0))


def _private_table(view: View) -> Table:
    found = view.summary.neurons.profile
    assert found is not None
    near = {each.name: each.neighbours for each in found.nearest}
    rows: Rows = [
        [
            d.name,
            whole(d.size),
            share(d.private),
            share(d.private_shuffled),
            share(d.private_random),
            share(d.everywhere),
            share(d.everywhere_shuffled),
            share(d.everywhere_random),
            share(d.other_modalities),
            listed(
                [
                    f"{n.name} {signed(100 * n.beyond, 0, plus=True)} points"
                    for n in near.get(d.name, [])
                ]
            ),
        ]
        for d in found.decompositions
    ]
    columns = [
        "set", "size", "private", "labels shuffled", "random sets", "in all languages",
        "labels shuffled", "random sets", "in another modality", "nearest, beyond chance",
    ]  # fmt: skip
    return table("Private and shared parts, and the nearest languages", columns, rows)


def counts_figure(view: View) -> Figure | None:
    """Neuron count against attack success, a point a language."""
    tests = [t for t in view.summary.explained.counts if t.among == "all" and t.languages]
    if not tests:
        return None
    tests.sort(
        key=lambda t: view.modalities.index(t.modality) if t.modality in view.modalities else 9
    )
    panels = [Panel(_title(t), _scatter(t)) for t in tests]
    return Figure(
        "counts",
        "Neurons against attack success",
        "A point is a language of the untouched model. p counts every order of the languages"
        " (or random ones where there are too many), both sides.",
        tuple(panels),
        _counts_table(view),
        (("aligned", "high-resource"), ("zero", "other languages")),
    )


def _title(t: CountTest) -> str:
    tail = "r undefined" if t.r is None else f"r = {signed(t.r, 2)}, p = {p_text(t.p_value)}"
    return f"{modality_name(t.modality)}: {tail}"


def _scatter(t: CountTest) -> Markup:
    left, right, lower, upper = BOX
    counts = [float(n) for n in t.counts]
    x = linear(counts, left, right, zero=False)
    y = Axis(0.0, 1.0, lower, upper, (0.0, 0.25, 0.5, 0.75, 1.0), percent=True)
    parts: list[Markup] = []
    dots = [(x(n), y(hits)) for n, hits in zip(counts, t.attack_success, strict=True)]
    for language, n, hits, tokens, place in zip(
        t.languages, counts, t.attack_success, t.tokens, _labelled(t.languages, dots), strict=True
    ):
        kind = "aligned" if is_high_resource(language) else "zero"
        tip = (
            f"{language_name(language)}: {n:.0f} neurons, attack success {percent(hits)},"
            f" {number(tokens, 1)} tokens an item"
        )
        marks = [glyph(kind, x(n), y(hits), tip)]
        if place is not None:
            marks.append(text(*place, language, "t-tiny t-soft", "middle"))
        parts.append(tag("g", *marks, class_="tip"))
    label = f"Neurons against attack success, {modality_name(t.modality)}"
    return framed(label, parts, x, y, "neurons in the set", "attack success, %")


def _labelled(
    names: Sequence[str], dots: Sequence[tuple[float, float]]
) -> list[tuple[float, float] | None]:
    """Where each name stands, beside or below its dot, over no other name and no dot.

    None where there is no such place: the dot is named under the pointer and in the table.
    """
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots]
    places: list[tuple[float, float] | None] = []
    for name, (x, y) in zip(names, dots, strict=True):
        half = label_width(name) * 10 / 12 / 2 + 1.5
        tries = [(x + 6 + half, y + 4), (x - 6 - half, y + 4)]
        tries += [(x, y + down) for down in (15, -8, 26, -19, 37, 48)]
        spots = [(a, b, (a - half, b - 8, a + half, b + 1)) for a, b in tries]
        left, right, lower, upper = BOX
        free = (
            (a, b, box)
            for a, b, box in spots
            if left - 8 <= box[0]
            and box[2] <= right + 14
            and upper - 16 <= box[1]
            and box[3] <= lower - 1
            and not any(_cover(box, other) for other in taken)
        )
        found = next(free, None)
        places.append(None if found is None else found[:2])
        taken += [] if found is None else [found[2]]
    return places


Box = tuple[float, float, float, float]
"""Left, upper, right and lower end."""


def _cover(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _counts_table(view: View) -> Table:
    rows: Rows = [
        [
            modality_name(t.modality),
            "all" if t.among == "all" else "not high-resource",
            whole(len(t.languages)),
            real(t.r),
            f"[{number(t.low)}, {number(t.high)}]" if t.low is not None else "undefined",
            p_entry(t.p_value),
            real(t.partial_r),
            p_entry(t.partial_p),
            Entry(f"{t.permutations:,} {'(all)' if t.exact else 'drawn'}", t.permutations),
            listed(t.left_out, 9) if t.left_out else "none",
        ]
        for t in view.summary.explained.counts
    ]
    columns = [
        "modality", "languages", "n", "r", "95 % (Fisher)", "p", "partial r, given tokens",
        "p (partial)", "orders", "without a scored answer",
    ]  # fmt: skip
    note = "p-values are not corrected for the number of rows."
    return table("Count against attack success over languages", columns, rows, note)

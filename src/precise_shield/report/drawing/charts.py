"""The kinds of picture: heat map, marks with intervals, and lines. They know no summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan

from markupsafe import Markup

from precise_shield.report.drawing.palette import STEPS
from precise_shield.report.drawing.svg import (
    WIDTH,
    Axis,
    drawing,
    fitted,
    join,
    label_width,
    line,
    tag,
    text,
)
from precise_shield.report.numbers.words import percent, signed, small

LABELS = 84.0
"""Pixels kept for row labels."""

LONGEST = 180.0
"""Pixels that the row labels of a heat map may take where they are longer."""

BOX = (54.0, WIDTH - 16.0, 196.0, 24.0)
"""Left, right, lower and upper end of the axes of a chart with two of them."""

VALUES = 48.0
"""Pixels kept for the figure at the end of a row."""

PLOT = (LABELS + 10.0, WIDTH - VALUES - 8.0)
"""Left and right end of the axis of `marks_plot`."""


@dataclass(frozen=True)
class Square:
    """One cell of a heat map. `value` in [0, 1] colours it; NaN is hatched."""

    value: float
    main: str
    sub: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Mark:
    """A value with its interval, drawn in the shape and colour of `kind`."""

    kind: str
    value: float
    low: float = nan
    high: float = nan
    tip: str = ""
    lane: int = 0
    faint: bool = False
    stem: bool = False
    """Draw a thin line from the start of the axis."""


@dataclass(frozen=True)
class Lane:
    """A row of `marks_plot`."""

    label: str
    marks: tuple[Mark, ...]
    value: str = ""
    """What stands at the end of the row."""
    strong: bool = False
    """Set apart: a pooled row."""
    strip: tuple[float, ...] = ()
    """Values drawn as one row of fine ticks, in the colour of `random`."""
    strip_tip: str = ""


@dataclass(frozen=True)
class Series:
    """A line; it breaks where a value is NaN."""

    label: str
    kind: str
    points: tuple[tuple[float, float], ...]
    faint: bool = False
    dots: bool = True


def glyph(kind: str, x: float, y: float, tip: str = "", faint: bool = False) -> Markup:
    """The mark of a kind of condition: kinds differ in shape as well as in colour."""
    title = [tag("title", tip)] if tip else []
    class_ = f"k-{kind} " + ("faint " if faint else "")
    if kind == "base":
        return tag("circle", *title, cx=x, cy=y, r=4, class_=class_ + "open")
    if kind == "random":
        r = 2.6 if faint else 3.6
        where = {"x": x - r, "y": y - r, "width": 2 * r, "height": 2 * r}
        return tag("rect", *title, **where, class_=class_ + "open")
    paths = {
        "aligned": "M0-5.2 5.2 0 0 5.2-5.2 0Z",
        "suppressed": "M0-5 4.9 3.8H-4.9Z",
        "zero": "M-3.6-3.6 3.6 3.6M3.6-3.6-3.6 3.6",
        "defence": "M0-4.6V4.6M-4.6 0H4.6",
    }
    style = "stroke" if kind in ("zero", "defence") else "full"
    place = f"translate({x:.1f} {y:.1f})"
    shape = paths.get(kind, "M-1.2-6H1.2V6H-1.2Z")
    return tag("path", *title, d=shape, transform=place, class_=class_ + style)


def heat_map(
    label: str,
    rows: Sequence[str],
    columns: Sequence[str],
    squares: Sequence[Sequence[Square | None]],
    ramp: str,
    gaps: Sequence[int] = (),
    orders: Mapping[str, Sequence[int]] | None = None,
) -> Markup:
    """A grid of squares with their figures in them; None leaves a place empty.

    Args:
        label: what a screen reader says the picture is.
        rows: labels on the left, one for each line of `squares`.
        columns: labels above; a hyphen or a space may break them into two lines.
        squares: the cells, row by row.
        ramp: name of the colour ramp.
        gaps: rows before which space is left, to set pooled rows apart.
        orders: other orders of rows and columns alike, which the page's script offers.
    """
    deep = any(square and square.sub for row in squares for square in row)
    high = 34.0 if deep else 26.0
    left = min(max([LABELS, *(label_width(name) + 10 for name in rows)]), LONGEST)
    fair = 1.0 / max(1, len(columns))
    wide = max((WIDTH - left) * fair, min(_widest(columns), 1.5 * WIDTH * fair), 26.0)
    wide = min(wide, 92.0)
    heads = [_head_lines(name, wide) for name in columns]
    top = 21.0 if all(len(lines) == 1 for lines in heads) else 34.0
    parts = []
    for k, lines in enumerate(heads):
        head = _column_head(lines, left + (k + 0.5) * wide, top, wide)
        parts.append(head if orders is None else tag("g", head, data_c=k))
    y = top
    for index, (name, row) in enumerate(zip(rows, squares, strict=True)):
        y += 8 if index in gaps else 0
        short = fitted(name, left - 8)
        name_at = text(left - 8, y + high / 2 + 4, short, anchor="end")
        parts.append(name_at if orders is None else tag("g", name_at, data_r=index))
        for k, square in enumerate(row):
            if square is not None:
                drawn = _square(square, left + k * wide, y, wide, high, ramp)
                parts.append(drawn if orders is None else tag("g", drawn, data_r=index, data_c=k))
        y += high
    width = max(WIDTH, left + wide * len(columns))
    if orders is None:
        return drawing(width, y + 4, label, parts)
    step: dict[str, str | float] = {"data_wide": wide, "data_high": high}
    step["data_orders"] = json.dumps(orders)
    return drawing(width, y + 4, label, parts, **step)


def _widest(columns: Sequence[str]) -> float:
    """Pixels that the longest unbreakable part of a column's head asks for."""
    parts = [part for name in columns for part in _broken(name)]
    return max((label_width(part) for part in parts), default=0.0)


def _broken(name: str) -> list[str]:
    first, sign, rest = name.partition("-" if "-" in name else " ")
    return [first + sign.strip(), rest] if rest else [name]


def _head_lines(name: str, wide: float) -> list[str]:
    return _broken(name) if label_width(name) > wide - 4 else [name]


def _column_head(lines: Sequence[str], x: float, top: float, wide: float) -> Markup:
    above = [top - 6 - 13 * (len(lines) - 1 - k) for k in range(len(lines))]
    return join(
        [
            text(x, y, fitted(words, wide), "t-small t-soft", "middle")
            for y, words in zip(above, lines, strict=True)
        ]
    )


def _square(square: Square, x: float, y: float, wide: float, high: float, ramp: str) -> Markup:
    step = round(min(max(square.value, 0.0), 1.0) * (STEPS - 1)) if isfinite(square.value) else None
    style = "void" if step is None else f"{ramp}{step}"
    parts = [tag("title", square.tip)] if square.tip else []
    parts.append(tag("rect", x=x + 1, y=y + 1, width=wide - 2, height=high - 2))
    middle = x + wide / 2
    if square.sub:
        parts.append(text(middle, y + 15.5, square.main, "t-strong"))
        parts.append(text(middle, y + 27.5, square.sub, "t-tiny"))
    else:
        parts.append(text(middle, y + high / 2 + 4, square.main, "t-small" if wide < 40 else ""))
    return tag("g", *parts, class_=f"tip cell {style}")


def marks_plot(
    label: str,
    lanes: Sequence[Lane],
    axis: Axis,
    depth: int = 1,
    unit: str = "",
    head: str = "",
) -> Markup:
    """Rows of marks with intervals on one axis: forest, dot and dumbbell plots.

    Args:
        label: what a screen reader says the picture is.
        lanes: the rows from above.
        axis: the horizontal scale; its pixels should be `PLOT`.
        depth: how many marks lie above each other in a row.
        unit: what the axis counts, written under it.
        head: what the figures at the ends of the rows are, written above them.
    """
    pitch = 11.0
    high = max(24.0, pitch * depth + 12.0)
    top, pooled = (
        (20.0 if head else 6.0),
        next((k for k, lane in enumerate(lanes) if lane.strong), None),
    )
    gap = 8.0 if pooled else 0.0
    bottom = top + high * len(lanes) + gap
    parts = _grid(axis, top, bottom)
    if head:
        parts.append(text(WIDTH - 2, 12, head, "t-small t-soft", "end"))
    y = top
    for index, lane in enumerate(lanes):
        if index == pooled and gap:
            parts.append(line(0, y + gap / 2, WIDTH, y + gap / 2, "rule"))
            y += gap
        middle = y + high / 2
        weight = "t-strong" if lane.strong else ""
        parts.append(text(LABELS - 4, middle + 4, fitted(lane.label, LABELS - 6), weight, "end"))
        if lane.strip:
            parts.append(_strip(lane, axis, middle))
        shift = middle - pitch * (depth - 1) / 2
        parts += [_mark(mark, axis, shift + pitch * mark.lane) for mark in lane.marks]
        if lane.value:
            parts.append(text(WIDTH - 2, middle + 4, lane.value, f"{weight} t-value", "end"))
        y += high
    if unit:
        middle = (axis.start + axis.end) / 2
        parts.append(text(middle, bottom + 29, unit, "t-small t-soft", "middle"))
    return drawing(WIDTH, bottom + (36 if unit else 20), label, parts)


def _grid(axis: Axis, top: float, bottom: float) -> list[Markup]:
    parts = []
    for tick in axis.ticks:
        strong = tick == 0 and axis.low < 0
        parts.append(line(axis(tick), top, axis(tick), bottom, "zero" if strong else "grid"))
        parts.append(text(axis(tick), bottom + 14, axis.name(tick), "t-small t-soft", "middle"))
    return parts


def _strip(lane: Lane, axis: Axis, y: float) -> Markup:
    path = "".join(f"M{axis(v):.1f} {y - 4.5:.1f}v9" for v in lane.strip if isfinite(v))
    title = [tag("title", lane.strip_tip)] if lane.strip_tip else []
    return tag("g", *title, tag("path", d=path, class_="k-random ticks"), class_="tip")


def _mark(mark: Mark, axis: Axis, y: float) -> Markup:
    if not isfinite(mark.value):
        return Markup("")
    parts = [tag("title", mark.tip)] if mark.tip else []
    if mark.stem:
        parts.append(line(axis.start, y, axis(mark.value), y, f"k-{mark.kind} stem"))
    if isfinite(mark.low) and isfinite(mark.high):
        parts.append(line(axis(mark.low), y, axis(mark.high), y, f"k-{mark.kind} ci"))
    parts.append(glyph(mark.kind, axis(mark.value), y, faint=mark.faint))
    return tag("g", *parts, class_="tip")


def line_chart(
    label: str, series: Sequence[Series], x: Axis, y: Axis, x_name: str, y_name: str
) -> Markup:
    """Lines over one horizontal and one vertical axis.

    Args:
        label: what a screen reader says the picture is.
        series: the lines, the faint ones drawn first.
        x: horizontal scale.
        y: vertical scale; its `start` is the lower pixel.
        x_name: what the horizontal axis counts.
        y_name: what the vertical axis counts, written above it.
    """
    parts: list[Markup] = []
    for one in sorted(series, key=lambda s: not s.faint):
        parts += _stretches(one, x, y, (x_name, y_name))
    return framed(label, parts, x, y, x_name, y_name)


def framed(
    label: str, drawn: Sequence[Markup], x: Axis, y: Axis, x_name: str, y_name: str
) -> Markup:
    """What was drawn on two axes, on its grid and with its axes named; as `line_chart` takes it."""
    left, right = x.start - 10, x.end + 10
    parts = [text(left - 30, 12, y_name, "t-small t-soft")]
    for tick in y.ticks:
        parts.append(line(left, y(tick), right, y(tick), "grid"))
        parts.append(text(left - 6, y(tick) + 4, y.name(tick), "t-small t-soft", "end"))
    for tick in x.ticks:
        parts.append(line(x(tick), y.start, x(tick), y.start + 4, "axis"))
        parts.append(text(x(tick), y.start + 16, x.name(tick), "t-small t-soft", "middle"))
    parts.append(line(left, y.start, right, y.start, "axis"))
    parts += drawn
    parts.append(text((x.start + x.end) / 2, y.start + 32, x_name, "t-small t-soft", "middle"))
    return drawing(WIDTH, y.start + 40, label, parts)


def _stretches(series: Series, x: Axis, y: Axis, names: tuple[str, str]) -> list[Markup]:
    runs: list[list[tuple[float, float]]] = [[]]
    for point in series.points:
        if isfinite(point[0]) and isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    style = f"k-{series.kind} " + ("thread" if series.faint else "thick")
    parts = []
    for run in runs:
        path = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in run) if len(run) > 1 else ""
        if path:
            parts.append(tag("path", d=path, class_=style))
        if series.dots and not series.faint:
            tips = [
                f"{series.label}: {_said(b, y, names[1])} at {a:g} ({names[0]})" for a, b in run
            ]
            spots = [
                glyph(series.kind, x(a), y(b), tip) for (a, b), tip in zip(run, tips, strict=True)
            ]
            parts += [tag("g", spot, class_="tip") for spot in spots]
    return parts


def _said(value: float, axis: Axis, name: str) -> str:
    """A value in the words of its axis: a share as percent, anything else with what it counts."""
    if axis.percent:
        return percent(value)
    return f"{signed(value, 3).rstrip('0').rstrip('.') if abs(value) >= 1 else small(value)} {name}"

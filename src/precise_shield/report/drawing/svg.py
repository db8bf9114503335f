"""SVG by hand: elements, scales and ticks. Whatever text enters is escaped and made visible."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from markupsafe import Markup, escape

from precise_shield.report.numbers.words import MINUS, visible

WIDTH = 352.0
"""Width of every panel: three fit beside each other on a desk, one on a phone."""


Length = int | float
"""Pixels of the picture's own scale."""


def tag(name: str, *children: str | Markup, **attributes: str | Length) -> Markup:
    """One element. `class_` is `class`, `text_anchor` is `text-anchor`."""
    parts = [Markup(" {}={}").format(_attribute(key), _quoted(v)) for key, v in attributes.items()]
    inner = Markup("").join(
        child if isinstance(child, Markup) else escape(visible(child)) for child in children
    )
    opening = Markup("<{}").format(name) + Markup("").join(parts)
    return opening + (Markup(">") + inner + Markup("</{}>").format(name) if inner else Markup("/>"))


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _quoted(value: str | Length) -> Markup:
    text = visible(value) if isinstance(value, str) else coordinate(value)
    return Markup('"{}"').format(text)


def coordinate(value: Length) -> str:
    """A length with at most one decimal."""
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def join(parts: Sequence[Markup]) -> Markup:
    return Markup("").join(parts)


def drawing(
    width: Length, height: Length, label: str, parts: Sequence[Markup], **more: str | Length
) -> Markup:
    """An `<svg>` of natural size that a screen reader hears as one picture with a name."""
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {coordinate(width)} {coordinate(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
        class_="figure",
        **more,
    )


def text(x: Length, y: Length, words: str, class_: str = "", anchor: str = "start") -> Markup:
    """A line of text; `y` is its base line."""
    extra = {"class_": class_} if class_ else {}
    if anchor != "start":
        extra["text_anchor"] = anchor
    return tag("text", words, x=x, y=y, **extra)


def line(x1: Length, y1: Length, x2: Length, y2: Length, class_: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def label_width(words: str) -> float:
    """Rough width of a label at 12 px: wide characters count double."""
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in words)
    return 6.4 * (len(words) + wide)


def fitted(words: str, width: Length) -> str:
    """The label, cut with an ellipsis so that it fits `width` pixels at 12 px."""
    if label_width(words) <= width:
        return words
    kept = words
    while kept and label_width(kept) > width - 8:
        kept = kept[:-1]
    return kept.rstrip() + "…"


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels with its ticks; values outside are clamped to the ends."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`; smaller than `start` on a vertical axis."""
    ticks: tuple[float, ...]
    log: bool = False
    percent: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.log:
            share = (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def name(self, tick: float) -> str:
        """The tick's label: percent without its sign, powers as `1k`, `1M`."""
        if self.percent:
            tick = 100 * tick
        return _power(tick) if self.log else f"{tick:g}".replace("-", MINUS)


def _power(value: float) -> str:
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def linear(
    values: Sequence[float], start: float, end: float, percent: bool = False, zero: bool = True
) -> Axis:
    """An axis over the finite `values` with four to eight round ticks; `zero` keeps 0 in sight."""
    finite = [value for value in values if isfinite(value)]
    if zero or not finite:
        finite.append(0.0)
    low, high = min(finite), max(finite)
    if low == high:
        high = low + 1.0
    step = _step((high - low) / 4)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    ticks = tuple(round(k * step, 10) for k in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, end, ticks, percent=percent)


def unit(start: float, end: float) -> Axis:
    """An axis of shares from 0 to 100 %."""
    return Axis(0.0, 1.0, start, end, (0.0, 0.25, 0.5, 0.75, 1.0), percent=True)


def steps(last: int, start: float, end: float) -> Axis:
    """An axis of whole numbers from 0 to `last`, with at most nine ticks."""
    every = max(1, ceil(last / 8))
    ticks = tuple(float(k) for k in range(0, last + 1, every))
    return Axis(0.0, float(max(1, last)), start, end, ticks)


def logarithmic(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis over powers of ten that covers the positive `values`; one power has 2 and 5 too."""
    good = [value for value in values if isfinite(value) and value > 0] or [1.0]
    first, last = floor(log10(min(good)) + 1e-9), ceil(log10(max(good)) - 1e-9)
    last = max(last, first + 1)
    every = max(1, ceil((last - first) / 5))
    ticks = tuple(10.0**k for k in range(first, last + 1, every))
    if last == first + 1:
        ticks = (ticks[0], 2 * ticks[0], 5 * ticks[0], ticks[1])
    return Axis(10.0**first, 10.0**last, start, end, ticks, log=True)


def _step(rough: float) -> float:
    power = 10.0 ** floor(log10(rough))
    return next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= rough - 1e-12)

"""One figure as an SVG file of its own, for papers: panels, title and legend in one picture."""

from __future__ import annotations

import re
from importlib.resources import files
from math import ceil

from markupsafe import Markup

from precise_shield.report.drawing.charts import glyph
from precise_shield.report.drawing.figure import Figure
from precise_shield.report.drawing.palette import palette_css
from precise_shield.report.drawing.svg import coordinate, label_width, tag, text

GAP = 24.0
COLUMNS = 3
LEADING = 15.0
_SIZE = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')


def standalone(figure: Figure) -> str:
    """The figure as an SVG document with its own styles, on the light palette."""
    sizes = [_size(panel.svg) for panel in figure.panels]
    columns = _columns(len(sizes))
    step = max(width for width, _ in sizes) + GAP
    parts = [text(0, 18, figure.title, "t-title")]
    top = 34.0
    for line in _lines(figure.lead, columns * step - GAP):
        parts.append(text(0, top + 2, line, "t-small t-soft"))
        top += LEADING
    top += 6
    for row in range(ceil(len(sizes) / columns)):
        chunk = range(row * columns, min((row + 1) * columns, len(sizes)))
        for place, index in enumerate(chunk):
            panel, x = figure.panels[index], place * step
            parts.append(text(x, top + 12, panel.title, "t-strong"))
            parts.append(_placed(panel.svg, x, top + 20))
        top += max(sizes[index][1] for index in chunk) + 20 + GAP
    x = 0.0
    for kind, meaning in figure.legend:
        parts.append(_legend_mark(kind, x + 8, top))
        parts.append(text(x + 20, top + 4, meaning, "t-small"))
        x += label_width(meaning) + 44
    height = top + (16 if figure.legend else 0)
    width = max(columns * step - GAP, x)
    style = tag("style", Markup(_plain(palette_css(dark=False) + _figure_css())))
    return str(
        tag(
            "svg",
            tag("title", figure.title),
            tag("desc", figure.lead),
            style,
            *parts,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"-12 -12 {coordinate(width + 24)} {coordinate(height + 24)}",
            width=width + 24,
            height=height + 24,
            class_="figure",
        )
    )


def _columns(panels: int) -> int:
    """Panels beside each other: four make a square, so that none stands alone below."""
    return 2 if panels == 4 else min(COLUMNS, panels)


def _lines(words: str, width: float) -> list[str]:
    """The text in lines that fit `width` pixels; a word that is longer is a line of its own."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if label_width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line]


def _size(svg: Markup) -> tuple[float, float]:
    found = _SIZE.search(svg)
    assert found, "a panel is always made by `drawing`"
    return float(found[1]), float(found[2])


def _placed(svg: Markup, x: float, y: float) -> Markup:
    return Markup(str(svg).replace("<svg", f'<svg x="{coordinate(x)}" y="{coordinate(y)}"', 1))


def _legend_mark(kind: str, x: float, y: float) -> Markup:
    if kind != "ticks":
        return glyph(kind, x, y)
    path = f"M{x - 4:.1f} {y - 5:.1f}v10M{x:.1f} {y - 5:.1f}v10M{x + 4:.1f} {y - 5:.1f}v10"
    return tag("path", d=path, class_="k-random ticks")


def _figure_css() -> str:
    """The part of the style sheet that draws figures: everything up to its marker."""
    sheet = (files("precise_shield.report") / "templates" / "style.css").read_text(encoding="utf-8")
    return sheet.split("/* page */", 1)[0]


def _plain(css: str) -> str:
    """The sheet with its custom properties put in, for programs that know none of them."""
    values = dict(re.findall(r"--([\w-]+):([^;}]+)", css))
    filled = re.sub(r"var\(--([\w-]+)\)", lambda found: values[found[1]], css)
    plain = re.sub(r":root\{[^}]*\}\s*", "", filled)
    long = r"font-weight:\1;font-size:\2;font-family:\3;"
    return re.sub(r"font:(?:(\d+) )?([\d.]+px) ([^;}]+);?", long, plain).replace(
        "font-weight:;", ""
    )

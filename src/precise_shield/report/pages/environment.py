"""How the report's templates are filled in: everything escaped, nothing invisible, None a dash."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from precise_shield.report.drawing.charts import glyph
from precise_shield.report.drawing.svg import tag
from precise_shield.report.numbers.words import visible


@cache
def environment() -> Environment:
    """The one environment of all pages."""
    made = Environment(
        loader=PackageLoader("precise_shield.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.filters["tidy"] = _tidy
    made.filters["percent"] = lambda share: None if share is None else f"{share:.0%}"
    made.globals["tone_signs"] = {"good": "●", "bad": "▲", "unclear": "○", "plain": "–"}
    made.globals["legend_glyph"] = legend_glyph
    return made


def _shown(value: object) -> object:
    """What every `{{ }}` passes through: text gets its control characters made visible."""
    if value is None:
        return "–"
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _tidy(text: str) -> str:
    """Keep `[5, 7]` on one line."""
    return _INTERVAL.sub(f"[\\1,{chr(160)}\\2]", text)


_INTERVAL = re.compile(r"\[(\S+), (\S+)\]")


def legend_glyph(kind: str) -> Markup:
    """The mark of a legend entry as a small picture."""
    if kind == "ticks":
        mark = tag("path", d="M4 3v10M8 3v10M12 3v10", class_="k-random ticks")
    else:
        mark = glyph(kind, 8.0, 8.0)
    return tag(
        "svg", mark, width=16, height=16, viewBox="0 0 16 16", aria_hidden="true", class_="figure"
    )

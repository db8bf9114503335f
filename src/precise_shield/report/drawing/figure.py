"""A figure: panels that are read together, and the numbers behind them."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from precise_shield.report.numbers.tables import Table


@dataclass(frozen=True)
class Panel:
    """One picture; its title stands above it."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Figure:
    """Panels that are read together, their legend, and the numbers behind them."""

    name: str
    title: str
    lead: str
    panels: tuple[Panel, ...]
    table: Table
    legend: tuple[tuple[str, str], ...] = ()
    """Pairs of glyph and meaning."""

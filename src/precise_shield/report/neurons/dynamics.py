"""The figure on influence between layers, and the table of what neurons write."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isfinite, nan

from markupsafe import Markup

from precise_shield.core.summary.dynamics import InfluenceFacts, Matrix
from precise_shield.report.drawing.charts import Square, heat_map
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.numbers.finding import Finding
from precise_shield.report.numbers.tables import Rows, Table, real, share, table, whole
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import known, listed, number, percent, signed

CELLS = 12
"""Rows and columns of a map; more layers are put together in bands."""


def influence_figure(view: View) -> Figure | None:
    """How far the neurons of upper layers move when those of a lower one are silenced."""
    found = view.summary.explained.influence
    if found is None or len(found.layers) < 2:
        return None
    bands = bands_of(found.layers)
    both = [banded(matrix, bands) for matrix in (found.moved, found.random_moved)]
    change = [banded(matrix, bands) for matrix in (found.change, found.random_change)]
    top = max((abs(v) for grid in both for row in grid for v in row if isfinite(v)), default=0.0)
    names = [band_name(found.layers, band) for band in bands]
    titles = ("safety neurons silenced", f"random neurons silenced, mean of {found.random_sets}")
    panels = tuple(
        Panel(title, _map(title, names, grid, other, top))
        for title, grid, other in zip(titles, both, change, strict=True)
    )
    return Figure(
        "influence",
        "What the neurons of one layer do to those above",
        "Row: the layer whose neurons are set to zero. Column: the layer whose chosen neurons are"
        f" read, at the deciding position of {found.prompts} harmful prompts. Percent: mean change"
        " of activation, whichever way, of the mean absolute activation. The same neurons are read"
        " in both maps.",
        panels,
        _table(found),
    )


def bands_of(layers: Sequence[int]) -> list[list[int]]:
    """Positions of neighbouring layers, at most `CELLS` bands of like size."""
    size = ceil(len(layers) / CELLS)
    return [list(range(i, min(i + size, len(layers)))) for i in range(0, len(layers), size)]


def band_name(layers: Sequence[int], band: Sequence[int]) -> str:
    """A band by its first and last layer."""
    first, last = layers[band[0]], layers[band[-1]]
    return str(first) if first == last else f"{first}–{last}"


def banded(matrix: Matrix, bands: Sequence[Sequence[int]]) -> list[list[float]]:
    """Mean over the pairs of layers in two bands; NaN where no pair has a value."""
    grid = []
    for rows in bands:
        line = []
        for columns in bands:
            values = [v for i in rows for k in columns if (v := matrix[i][k]) is not None]
            line.append(sum(values) / len(values) if values else nan)
        grid.append(line)
    return grid


def _map(
    title: str,
    names: Sequence[str],
    grid: list[list[float]],
    change: list[list[float]],
    top: float,
) -> Markup:
    squares: list[list[Square | None]] = []
    for i, row in enumerate(grid):
        line: list[Square | None] = []
        for k, value in enumerate(row):
            if not isfinite(value):
                line.append(None)
                continue
            tip = (
                f"layer {names[i]} silenced, layer {names[k]} read: moved by {percent(value)} of"
                " its mean activation, mean |activation|"
                f" {signed(100 * change[i][k], 1, plus=True)} %"
            )
            scaled = value / top if top else 0.0
            line.append(Square(scaled, signed(100 * value, 0), tip=tip))
        squares.append(line)
    return heat_map(f"Influence between layers, {title}", list(names), list(names), squares, "risk")


def _table(found: InfluenceFacts) -> Table:
    rows: Rows = []
    for i, low in enumerate(found.layers):
        for k, high in enumerate(found.layers):
            if found.moved[i][k] is None:
                continue
            rows.append(
                [
                    whole(low),
                    whole(found.neurons[i]),
                    whole(high),
                    share(found.moved[i][k], 1),
                    share(found.random_moved[i][k], 1),
                    share(found.change[i][k], 1),
                    share(found.random_change[i][k], 1),
                ]
            )
    columns = [
        "silenced layer", "neurons there", "read layer", "moved", "moved, random neurons",
        "mean |activation|", "the same, random neurons",
    ]  # fmt: skip
    return table("Influence between layers", columns, rows)


def influence_finding(view: View) -> Finding | None:
    """Whether silencing chosen neurons moves those above more than random neurons do."""
    found = view.summary.explained.influence
    if found is None or found.mean_moved is None:
        return None
    random = [v for v in found.random_mean_moved if v is not None and known(v)]
    if not random:
        return None
    beaten = sum(v >= found.mean_moved for v in random)
    return Finding(
        "Between layers",
        "plain",
        f"Silencing one layer's safety neurons moves those of the layers above by"
        f" {percent(found.mean_moved)} of their mean activation, matched random neurons by"
        f" {percent(sum(random) / len(random))} ({beaten} of {len(random)} random sets as much).",
    )


def writes_table(view: View) -> Table | None:
    """The strongest chosen neurons: top output tokens and driving prompts, by id."""
    found = view.summary.explained.writes
    if found is None or not found.neurons:
        return None
    rows: Rows = [
        [
            one.site,
            whole(one.unit),
            real(one.strength, 4),
            "up" if one.sign > 0 else "down",
            listed([f"“{token.text}”" for token in one.tokens], 12),
            _share_harmful([driver.harm for driver in one.prompts]),
            listed(
                [
                    f"{d.example} ({d.language}, {d.harm}, {number(d.activation)})"
                    for d in one.prompts
                ],
                5,
            ),
        ]
        for one in found.neurons
    ]
    columns = [
        "site", "unit", "strength", "driven", "writes", "harmful among the prompts",
        "driven most by",
    ]  # fmt: skip
    return table(
        "What single neurons write, and what drives them",
        columns,
        rows,
        note="Strength: share of the layer's importance for harmful minus for benign requests."
        " Tokens: the neuron's column, times the direction in which harmful requests drive it,"
        " through the final norm and the unembedding; it says what the neuron argues for, not what"
        f" the model says. Prompts, by id, out of {found.prompts} probing prompts at the deciding"
        " position.",
    )


def _share_harmful(harms: Sequence[str]) -> str:
    return f"{sum(harm == 'harmful' for harm in harms)} of {len(harms)}"

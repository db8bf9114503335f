"""Does one pass rank neurons as switching each off does?"""

from __future__ import annotations

from math import isfinite, nan

from precise_shield.core.summary import LocalAgreement
from precise_shield.report.drawing.charts import Square, heat_map
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.numbers.tables import Rows, Table, real, share, table, whole
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import number


def local_figure(view: View) -> Figure | None:
    """Rank correlation by layer and cell; nothing where no neuron was switched off alone."""
    found = view.summary.neurons.local
    if not found:
        return None
    sites = list(found[0].by_layer)
    squares = [[_square(row, site) for site in sites] for row in found]
    names = [_name(row) for row in found]
    drawn = heat_map("Exact and local deactivation", names, sites, squares, "share")
    return Figure(
        "local-deactivation",
        "Does one pass rank neurons as switching each off does",
        "Spearman's correlation over a layer's units between exact deactivation and the norm of"
        " what a unit adds to its block's output.",
        (Panel("rank correlation by layer", drawn),),
        _table(found),
    )


def local_tables(view: View) -> list[Table]:
    """The same as a table."""
    found = view.summary.neurons.local
    return [_table(found)] if found else []


def _name(row: LocalAgreement) -> str:
    kind = row.exact.replace("_", " ")
    return f"{row.language}/{row.modality} {row.harm}, {kind}"


def _square(row: LocalAgreement, site: str) -> Square:
    rank = row.by_layer[site]
    size = nan if rank is None else rank
    shown = max(0.0, size) if isfinite(size) else nan
    return Square(shown, number(rank), tip=f"{_name(row)}, {site}: {number(rank)}")


def _table(found: list[LocalAgreement]) -> Table:
    rows: Rows = [
        [_name(row), whole(row.examples), real(row.rank), real(row.overall), share(row.top_shared)]
        for row in found
    ]
    columns = ["cell", "examples", "rank, mean over layers", "rank, all layers", "top p shared"]
    return table("Exact deactivation and its one-pass form", columns, rows)

"""What should be known of the data: repeated requests, openings of the test, results by origin."""

from __future__ import annotations

from math import nan

from precise_shield.core.summary import OriginRate
from precise_shield.report.tables import MEASURE_NAMES, Rows, Table, rated, table, whole
from precise_shield.report.view import Estimate, View

_KINDS = ("base", "aligned", "random_rows")


def data_tables(view: View) -> list[Table]:
    """Tables of what there is to say; none for data of one origin without repeated requests."""
    notes = view.summary.data_notes
    found: list[Table] = []
    if notes.origins:
        found.append(_by_origin(view))
    if notes.overlaps:
        repeated: Rows = [
            [each.later, each.earlier, whole(each.exact), whole(each.near), whole(each.of)]
            for each in notes.overlaps
        ]
        columns = ["split", "is also in", "word for word", "nearly", "of requests"]
        found.append(table("Requests in two splits", columns, repeated))
    if len({each.config for each in notes.openings}) > 1:
        opened: Rows = [[each.folder, each.opened, each.config] for each in notes.openings]
        note = "The best of several test results overstates; choose on validation."
        found.append(
            table("Who opened these test requests", ["run", "first", "configuration"], opened, note)
        )
    return found


def _by_origin(view: View) -> Table:
    rows = view.summary.data_notes.origins
    conditions = [c for c in view.summary.conditions if c.kind in _KINDS]
    at = {(row.measure, row.source, row.region, row.condition): row for row in rows}
    places = dict.fromkeys((row.measure, row.source, row.region) for row in rows)
    lines: Rows = [
        [MEASURE_NAMES[measure], source or "–", region or "–"]
        + [rated(_estimate(at.get((measure, source, region, c.name)))) for c in conditions]
        for measure, source, region in places
    ]
    columns = ["measure", "source", "region", *[c.label for c in conditions]]
    note = "Wilson intervals; origins were asked different prompts."
    return table("By source and region of the prompts", columns, lines, note)


def _estimate(row: OriginRate | None) -> Estimate | None:
    if row is None:
        return None
    value, low, high = (nan if x is None else x for x in (row.value, row.low, row.high))
    return Estimate(value, low, high, row.n, row.unscored)

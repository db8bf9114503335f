"""What should be known of the data: repeated requests, and openings of the test."""

from __future__ import annotations

from precise_shield.report.numbers.tables import Rows, Table, table, whole
from precise_shield.report.numbers.view import View


def data_tables(view: View) -> list[Table]:
    """Tables of what there is to say; none without repeated requests and openings."""
    notes = view.summary.data_notes
    found: list[Table] = []
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

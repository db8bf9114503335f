"""Repeated requests and openings are shown; nothing when there is none."""

from __future__ import annotations

from precise_shield.core.summary import DataNotes, Opening, OverlapCount
from precise_shield.report.checks.data_notes import data_tables
from precise_shield.report.numbers.view import View
from report.fixture import realistic


def noted(**notes):
    return realistic().model_copy(update={"data_notes": DataNotes(**notes)})


def test_repeated_requests_and_several_openings_are_tables():
    count = OverlapCount(earlier="train", later="test", exact=2, near=1, of=9, pairs=[("a", "b")])
    one, two = (Opening(folder=name, opened="2026-01-01", config=name * 12) for name in "ab")
    tables = data_tables(View(noted(overlaps=[count], openings=[one, two])))
    assert [entry.text for entry in tables[0].rows[0]] == ["test", "train", "2", "1", "9"]
    assert [row[0].text for row in tables[1].rows] == ["a", "b"]


def test_nothing_to_say_is_no_table():
    one = Opening(folder="a", opened="2026-01-01", config="a")
    assert data_tables(View(noted(openings=[one]))) == []

"""Results by origin, repeated requests and openings are shown; nothing when there is none."""

from __future__ import annotations

from precise_shield.core.summary import DataNotes, Opening, OriginRate, OverlapCount
from precise_shield.report.markdown import render_markdown
from precise_shield.report.origins import data_tables
from precise_shield.report.page import render_html
from precise_shield.report.view import View
from report.fixture import realistic


def noted(**notes):
    return realistic().model_copy(update={"data_notes": DataNotes(**notes)})


def rate(region, hits, n):
    return OriginRate(
        condition="base", measure="attack_success", source="own <b>", region=region, hits=hits, n=n,
        unscored=1, value=hits / n if n else None, low=0.1 if n else None, high=0.9 if n else None,
    )  # fmt: skip


def test_results_by_origin_are_shown_escaped_with_their_company():
    summary = noted(origins=[rate("Nepal", 3, 6), rate(None, 0, 0)])
    (shown,) = data_tables(View(summary))
    assert [row[2].text for row in shown.rows] == ["Nepal", "–"]
    assert "n=6 unscored=1" in shown.rows[0][3].text
    assert "undefined" in shown.rows[1][3].text
    assert "not measured" in shown.rows[0][4].text
    page = render_html(summary)
    assert "own &lt;b&gt;" in page
    assert "own <b>" not in page
    assert "By source and region" in render_markdown(summary)


def test_repeated_requests_and_several_openings_are_tables():
    count = OverlapCount(earlier="train", later="test", exact=2, near=1, of=9, pairs=[("a", "b")])
    one, two = (Opening(folder=name, opened="2026-01-01", config=name * 12) for name in "ab")
    tables = data_tables(View(noted(overlaps=[count], openings=[one, two])))
    assert [entry.text for entry in tables[0].rows[0]] == ["test", "train", "2", "1", "9"]
    assert [row[0].text for row in tables[1].rows] == ["a", "b"]


def test_nothing_to_say_is_no_table():
    one = Opening(folder="a", opened="2026-01-01", config="a")
    assert data_tables(View(noted(openings=[one]))) == []

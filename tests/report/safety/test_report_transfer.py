"""The transfer matrix is drawn where arms say what they were trained on, and in Markdown."""

from precise_shield.core.summary import TrainedOn, Transfer, TransferCell
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import MINUS
from precise_shield.report.pages.markdown import render_markdown
from precise_shield.report.pages.page import render_html
from precise_shield.report.safety.transfer import _value, transfer_figure, transfer_tables
from report.fixture import realistic


def cell(condition, column, seen, **more):
    values = {"n": 30, "unscored": 2, "base": 0.75, "value": 0.5, "difference": -0.25,
              "low": -0.4, "high": -0.1, "measure": "attack_success"}  # fmt: skip
    place = {"condition": condition, "axis": "language", "column": column, "seen": seen}
    return TransferCell(**place, **values | more)


def test_trained_places_are_marked_and_what_was_not_compared_says_so():
    plain = realistic()
    assert transfer_figure(View(plain)) is None
    assert transfer_tables(View(plain)) == []
    cells = [
        cell("aligned", "en", True),
        cell("aligned", "fi", True),
        cell("zero-shot", "en", True, beyond=-0.3, beyond_low=-0.5, beyond_high=-0.1),
        cell("zero-shot", "fi", False, value=None, difference=None, low=None, high=None),
        cell("zero-shot", None, False, random=[-0.05, None], beyond=-0.2),
    ]
    conditions = [
        c.model_copy(
            update={"trained_on": [TrainedOn(axis="language", seen=["en"], unseen=["fi", "fr"])]}
        )
        if c.name == "zero-shot"
        else c
        for c in plain.conditions
    ]
    summary = plain.model_copy(update={"conditions": conditions, "transfer": Transfer(cells=cells)})
    figure = transfer_figure(View(summary))
    assert _value(cell("zero-shot", "en", True, value=None), "zero-shot").sub == "trained"
    drawn, beyond = (str(panel.svg) for panel in figure.panels)
    assert drawn.count(">trained<") == 3
    assert all(said in drawn for said in ("untouched", "undef.", ">75<"))
    assert f"{MINUS}30" in beyond
    assert beyond.count("no random rows to compare with") == 3
    rows = [[entry.text for entry in row] for row in figure.table.rows]
    assert rows[2][0] == "language"
    assert rows[2][2:5] == ["English", "English", "trained"]
    assert rows[2][1] == View(summary).label("zero-shot") != rows[0][1]
    assert rows[4][3] == "all unseen"
    assert rows[4][11] == f"{MINUS}5.0, undefined"
    assert "Transfer: trained on one part" in render_markdown(summary)
    assert "transfer-matrix" in render_html(summary)
    assert "transfer-matrix" not in render_html(plain)

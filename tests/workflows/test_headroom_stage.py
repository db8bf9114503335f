"""Headroom is asked before and after tuning, kept, and left out where it is switched off."""

from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.explain.headroom import headroom


def test_a_run_asks_before_and_after_tuning(finished):
    _run, summary = finished
    found = summary.explained.headroom
    assert [row.condition for row in found.rows if row.language is None] == [
        "base", "base", "aligned", "aligned"
    ]  # fmt: skip
    assert {row.contrast for row in found.rows} == {"matched", "ordinary"}
    layers = {len(row.auc) for row in found.rows}
    assert layers == {4}  # three blocks and what the head reads
    order = [cost.stage.split()[0] for cost in summary.costs]
    assert order.index("headroom") < order.index("align")
    assert found.sentence
    base = [row for row in found.rows if row.condition == "base"]
    tuned = [row for row in found.rows if row.condition == "aligned"]
    assert [row.auc for row in base] != [row.auc for row in tuned]


def test_no_request_is_fitted_and_tested(finished):
    run, _summary = finished
    sides = [{e.group for e in run.data.examples if e.split == s} for s in ("probe", "validation")]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_it_can_be_switched_off_and_an_empty_split_is_said(config_text, finished, tmp_path):
    off = started(parse_config(config_text, ["explain.headroom.on=false"]), tmp_path, quiet=True)
    assert headroom(off) is None
    run = started(parse_config(config_text), tmp_path, quiet=True)
    run.data.examples[:] = [e for e in run.data.examples if e.split != "validation"]
    found = headroom(run)
    assert found.rows == []
    assert "'validation' is empty" in found.sentence

"""A test set that is opened under several configurations says so; one that is not stays quiet."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from data.making import example
from precise_shield.core.records import Verdict, read_rows
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.openings import LOG, Logged, log_opening, openings
from precise_shield.workflows.evaluate.headlines import breakdown

CONFIG = "{model: {path: sandbox}, data: {sources: [{source: sandbox}]}}"
ROWS = [example(0, split="test"), example(1, split="test"), example(2, split="train")]


def opened(folder, *changes, rows=ROWS):
    run = Run(parse_config(CONFIG, changes), folder)
    run.__dict__["data"] = SimpleNamespace(examples=rows)
    log_opening(run, rows)
    return run


def lines(folder):
    return list(read_rows(folder / LOG, Logged))


def test_the_same_configuration_opens_once_whatever_it_is_called(tmp_path):
    opened(tmp_path / "a")
    again = opened(tmp_path / "a", "name=other")
    (line,) = lines(tmp_path / "a")
    assert line.rows == 2
    assert again.warnings == []
    assert [each.folder for each in openings(again)] == ["a"]


def test_another_configuration_in_this_or_another_folder_is_a_second_opening(tmp_path):
    opened(tmp_path / "a")
    beside = opened(tmp_path / "b", "identify.p=0.05")
    assert "opened under 2 configurations (in a, b)" in beside.warnings[0]
    same = opened(tmp_path / "a", "identify.p=0.01")
    assert "opened under 3 configurations (in a, b)" in same.warnings[0]
    assert len(lines(tmp_path / "a")) == 2
    assert len({each.config for each in openings(same)}) == 3


def test_other_test_rows_and_rows_that_are_no_test_do_not_count(tmp_path):
    opened(tmp_path / "a")
    other = opened(tmp_path / "b", "seed=1", rows=[example(7, split="test")])
    assert other.warnings == []
    assert len(lines(tmp_path / "b")) == 1
    tuned = opened(tmp_path / "c", "seed=2", rows=[example(8, split="validation")])
    assert tuned.warnings == []
    assert not (tmp_path / "c" / LOG).exists()


@pytest.mark.parametrize("content", [b"{\n", b'{"a": 1}\n', b"\xff\n"])
def test_a_broken_log_does_not_stop_a_run_and_is_said(tmp_path, content):
    for folder in "az":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / LOG).write_bytes(content)
    warnings = opened(tmp_path / "a").warnings
    assert [each.split(" ")[0] for each in warnings] == ["a/" + LOG, "z/" + LOG]
    assert all("are not counted" in each and str(tmp_path) not in each for each in warnings)


@pytest.mark.parametrize("content", [b"{", b""])
def test_a_log_that_was_cut_off_or_is_empty_is_whole_up_to_there(tmp_path, content):
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / LOG).write_bytes(content)
    assert opened(tmp_path / "a").warnings == []


def test_a_run_logs_its_opening_and_keeps_it_in_the_summary(finished):
    run, summary = finished
    assert [each.folder for each in summary.data_notes.openings] == [run.folder.name]
    assert lines(run.folder)[0].rows == len(run.examples("test"))


def test_rates_by_source_and_region_add_up_to_the_pooled_rate():
    rows = [
        example(n, split="test", source="ab"[n % 2], region=None if n < 2 else "Asia")
        for n in range(8)
    ]
    labels = ["unsafe", "refusal", "unsafe", "unclear", "refusal", "refusal", "unsafe", "refusal"]
    said = [Verdict(row.id, "base", "j", label) for row, label in zip(rows, labels, strict=True)]
    hits = {
        (row.by, row.key): (row.hits, row.n, row.unscored)
        for row in breakdown(rows, said, "ours")
        if row.measure == "attack_success" and row.by != "category"
    }
    assert hits == {("source", "a"): (3, 4, 0), ("source", "b"): (0, 3, 1)}
    told = [replace(row, region="Asia" if row.region else "Europe") for row in rows]
    regions = [row for row in breakdown(told, said, "ours") if row.by == "region"]
    asked = {row.key: row.n for row in regions if row.measure == "attack_success"}
    assert asked == {"Asia": 5, "Europe": 2}

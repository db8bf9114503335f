"""What a stage warned of is said again, once, when the stage is taken up as it is."""

import json

import pytest

from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.progress import Reporter

CONFIG = "{model: {path: sandbox}, data: {sources: [{source: sandbox}]}}"


def at_work(folder, inner=("of the inner one",)):
    """A run of two stages, one inside the other; both warn, and the inner one twice."""
    run = Run(parse_config(CONFIG), folder, Reporter(quiet=True))
    run.warn("before any stage")
    with run.working(run.store.stage("outer", {}), "outer") as todo:
        if todo:
            run.warn("of the outer one")
            with run.working(run.store.stage("inner", {}), "inner") as more:
                if more:
                    for words in [*inner, *inner]:
                        run.warn(words)
    return run


def test_warnings_of_a_stage_are_said_again_and_once(tmp_path):
    first, again = at_work(tmp_path), at_work(tmp_path)
    assert first.warnings == ["before any stage", "of the outer one", "of the inner one"]
    assert again.warnings == first.warnings
    assert all(cost.reused for cost in again.costs)
    assert len(again.costs) == 1 < len(first.costs)  # the inner stage was not even asked for
    (inner,) = tmp_path.glob("stages/inner/*/stage.json")
    assert json.loads(inner.read_text())["warnings"] == ["of the inner one"]


def test_a_warning_that_was_said_before_belongs_to_the_stage_all_the_same(tmp_path):
    at_work(tmp_path, inner=["before any stage"])
    alone = Run(parse_config(CONFIG), tmp_path, Reporter(quiet=True))
    with alone.working(alone.store.stage("inner", {}), "inner"):
        pass
    assert alone.warnings == ["before any stage"]


def test_a_failed_stage_warns_of_nothing_later(tmp_path):
    run = Run(parse_config(CONFIG), tmp_path, Reporter(quiet=True))
    with pytest.raises(ZeroDivisionError), run.working(run.store.stage("x", {}), "x"):
        raise ZeroDivisionError
    assert run.under_way == []


def test_a_folder_of_before_is_taken_up(tmp_path):
    at_work(tmp_path)
    for path in tmp_path.glob("stages/*/*/stage.json"):
        content = json.loads(path.read_text())
        assert content["cpu_seconds"] >= 0
        del content["cpu_seconds"], content["warnings"]
        path.write_text(json.dumps(content))
    again = at_work(tmp_path)
    assert again.warnings == ["before any stage"]
    assert all(cost.reused for cost in again.costs)

"""A training's figures arrive once a step wherever they are sent, also after a kill."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from precise_shield.core.errors import ConfigError
from precise_shield.workflows.align import tracking
from precise_shield.workflows.align.tracking import tracked

NAMED = dict(key="0123abcd", name="aligned", settings={"learning_rate": 0.1})


def steps(numbers, folder, *, done=0, names=()):
    with tracked(names, folder, done=done, **NAMED) as track:
        for number in numbers:
            track({"step": number, "total": 9, "loss": 1 / number, "kl": None})


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_training_writes_no_step_twice(tmp_path):
    """The checkpoint holds three steps; five were written, and the kill tore the sixth."""
    steps(range(1, 6), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    steps(range(4, 8), tmp_path, done=3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    steps([1], tmp_path)  # without a checkpoint it starts afresh
    assert lines(tmp_path) == [{"step": 1, "total": 9, "loss": 1.0, "kl": None}]


def test_every_step_is_on_disk_before_the_next(tmp_path):
    with tracked((), tmp_path, done=0, **NAMED) as track:
        track({"step": 1, "loss": 0.5})
        assert lines(tmp_path)[0]["step"] == 1


def test_a_tracker_that_is_missing_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"names wandb.*pip install 'precise-shield\[wandb\]'"):
        steps([1], tmp_path, names=["wandb"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="the tensorboard extra is missing")
def test_tensorboard_reads_back_what_was_tracked(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps([1, 2, 3], tmp_path, names=["tensorboard"])
    steps([3, 4], tmp_path, names=["tensorboard"], done=2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    seen = {event.step: event.value for event in events.Scalars("train/loss")}
    assert seen == {n: pytest.approx(1 / n) for n in (1, 2, 3, 4)}
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="the wandb extra is missing")
def test_wandb_keeps_a_run_on_this_machine_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    steps([1, 2], tmp_path, names=["wandb"])
    (run,) = (tmp_path / "wandb").glob("offline-run-*-0123abcd")
    assert next(run.glob("*.wandb")).stat().st_size > 0

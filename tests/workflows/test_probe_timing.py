"""What is timed counts with its median; answers cost what a batch of them does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from data.making import example
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.plan import probe, timing
from precise_shield.workflows.plan.price import Price, priced
from precise_shield.workflows.plan.timing import Neighbours, Timing, sentence, timed
from precise_shield.workflows.plan.work import Probing, Work

CONFIG = "{model: {path: sandbox}, data: {sources: [{source: sandbox}]}}"
CPU = torch.device("cpu")


class Clock:
    """Two clocks that stand still but for what work adds; the wall's runs three times as fast."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(timing, "moment", lambda _: Timing(3 * self.now, self.now))
        monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: 3 * self.now))

    def takes(self, seconds):
        self.now += seconds


def test_each_work_counts_with_the_median_of_its_rounds(monkeypatch):
    clock = Clock(monkeypatch)
    one, other = iter([0.1, 0.9, 0.2]), iter([0.5, 0.4, 0.3])
    works = [lambda: clock.takes(next(one)), lambda: clock.takes(next(other))]
    took = timed(CPU, works)
    assert took.cpu == pytest.approx(0.2 + 0.4)
    assert took.wall == pytest.approx(3 * took.cpu)
    assert next(one, None) is None


def test_slow_work_is_done_once(monkeypatch):
    clock = Clock(monkeypatch)
    took = timed(CPU, [lambda: clock.takes(timing.PATIENCE)])
    assert clock.now == took.cpu == timing.PATIENCE


def test_other_work_is_what_this_process_did_not_do(monkeypatch):
    states = iter([(100.0, 40.0, 10.0), (120.0, 55.0, 15.0)])  # all, busy, own
    monkeypatch.setattr(timing, "_ticks", lambda: next(states))
    assert Neighbours().share() == (15.0 - 5.0) / 20.0
    monkeypatch.setattr(timing, "_ticks", lambda: None)
    assert Neighbours().share() is None


def test_a_busy_machine_is_said_with_what_it_means(monkeypatch):
    assert sentence(None, CPU) is None
    assert sentence(0.05, CPU) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert "50% busy" in sentence(0.5, CPU)
    assert "for a quiet machine" in sentence(0.5, CPU)
    assert "as busy as that" in sentence(0.5, torch.device("cuda"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert "as busy as that" in sentence(0.5, CPU)


def test_processor_times_stand_in_for_the_clock():
    price = priced(Timing(3.0, 1.0), Timing(0.6, 0.2), ends=5)
    work = Work("evaluate", "answers", 1, "answer", tokens=9)
    assert price.of(work) == pytest.approx(3.0 + 4 * 0.6)
    assert price.cpu_of(work) == price.on_a_quiet_machine().of(work) == pytest.approx(1.8)
    assert Price(2.0).on_a_quiet_machine() == Price(2.0)


@pytest.mark.parametrize(("limit", "ends"), [(40, 21), (21, None), (8, None)])
def test_answers_are_priced_as_a_batch_that_goes_on_until_its_longest_has_ended(
    limit, ends, monkeypatch, tmp_path
):
    """Against the simulated model itself: 0.05 s a prompt to read, 0.2 s a step of any batch."""
    clock, size = Clock(monkeypatch), 8
    rows = [example(i) for i in range(32)]
    lengths = {row.id: 21 if i == 3 else 6 for i, row in enumerate(rows)}

    def generate(_, asked, *, max_new_tokens, batch_size, **__):
        assert batch_size == len(asked)
        said = [min(max_new_tokens, lengths[row.id]) for row in asked]
        clock.takes(0.05 * len(asked) + 0.2 * (max(said) - 1))
        return [SimpleNamespace(tokens=each) for each in said]

    monkeypatch.setattr(probe, "generate", generate)
    monkeypatch.setattr(probe, "spread", lambda rows, count, _: rows[:count])
    monkeypatch.setattr(
        probe, "batches_of", lambda *_: [list(range(i, i + size)) for i in range(0, 32, size)]
    )
    changes = (f"evaluate.max_new_tokens={limit}", f"evaluate.batch_size={size}")
    run = Probing(parse_config(CONFIG, changes), tmp_path)
    run.__dict__["loaded"] = SimpleNamespace(device=CPU)
    monkeypatch.setattr(Probing, "examples", lambda *_: rows)
    price = probe._answer(run)
    assert price.ends == ends
    work = Work("evaluate", "answers", size, "answer", tokens=limit)
    before = clock.now
    generate(None, rows[:size], max_new_tokens=limit, batch_size=size)
    assert size * price.cpu_of(work) == pytest.approx(clock.now - before)

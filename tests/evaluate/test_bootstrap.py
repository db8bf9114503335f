"""Parallel translations widen an interval: they are one request, not many."""

import math

import numpy as np
import pytest

from precise_shield.evaluate.bootstrap import grouped_difference


def rows(changes, copies):
    """Each request changes or not, in all of its translations alike."""
    before, after, groups = {}, {}, {}
    for request, changed in enumerate(changes):
        for copy in range(copies):
            key = f"{request}-{copy}"
            before[key], after[key], groups[key] = True, not changed, f"g{request}"
    return before, after, groups


def test_copies_of_a_request_add_no_certainty():
    changes = [True] * 12 + [False] * 8
    one, ten = (grouped_difference(*rows(changes, copies)) for copies in (1, 10))
    assert one.difference == ten.difference == pytest.approx(-0.6)
    assert ten.high - ten.low == pytest.approx(one.high - one.low, abs=0.02)
    alone = {key: key for key in rows(changes, 10)[0]}
    naive = grouped_difference(*rows(changes, 10)[:2], alone)
    assert naive.high - naive.low < 0.5 * (ten.high - ten.low)


def test_the_interval_is_that_of_resampled_groups():
    changes = np.random.default_rng(1).random(30) < 0.4
    found = grouped_difference(*rows(changes, 3), draws=4000)
    rng = np.random.default_rng(2)
    means = [-rng.choice(changes, 30).mean() for _ in range(4000)]
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.03)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.03)


def test_what_is_not_scored_on_both_sides_is_counted_and_left_out():
    before = {"a": True, "b": None, "c": True}
    after = {"a": False, "b": True}
    found = grouped_difference(before, after, {"a": "1", "b": "2", "c": "3"})
    assert (found.difference, found.n, found.unscored) == (-1.0, 1, 2)
    assert math.isnan(found.low)
    assert not found.excludes_zero
    assert math.isnan(grouped_difference({}, {}, {}).difference)


def test_the_test_flips_whole_groups():
    """Against the exact test over all signs, and not bolder for copies of a request."""
    changes = [True] * 7 + [False] * 3
    one, ten = (grouped_difference(*rows(changes, copies), draws=20_000) for copies in (1, 10))
    exact = 2 / 2**7  # all seven changes point the same way
    assert one.p_value == pytest.approx(exact, abs=0.004)
    assert ten.p_value == pytest.approx(exact, abs=0.004)
    assert math.isnan(grouped_difference(*rows([False] * 5, 2)).p_value)

"""Parallel translations widen an interval: they are one request, not many."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from precise_shield.evaluate.counting.bootstrap import grouped_difference, grouped_ratio
from precise_shield.evaluate.counting.headlines import grouped_mean


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


def of_groups(statistic, *columns):
    """scipy's percentile interval, one entry of each column a group, drawn together."""
    found = bootstrap(
        columns, statistic, paired=True, vectorized=True, method="percentile",
        n_resamples=4000, rng=np.random.default_rng(3),
    )  # fmt: skip
    return found.confidence_interval


def drawn(groups=60, copies=2, seed=5):
    """Hits of an untouched, an attacked and an aligned model; translations share a group."""
    rng = np.random.default_rng(seed)
    names = [f"{g}-{c}" for g in range(groups) for c in range(copies)]
    before = {n: bool(rng.random() < 0.9) for n in names}
    whole = {n: bool(rng.random() < 0.2) for n in names}
    left = {n: bool(whole[n] or rng.random() < 0.4) for n in names}
    return names, {n: n.split("-")[0] for n in names}, before, left, whole


def test_what_survives_is_a_ratio_of_changes_with_scipys_interval():
    names, groups, before, left, whole = drawn()
    order = sorted(set(groups.values()))

    def sums(after):
        return np.array(
            [sum(after[n] - before[n] for n in names if groups[n] == g) for g in order], float
        )

    found = grouped_ratio(before, left, whole, groups)
    part, full = sums(left), sums(whole)
    assert found.value == pytest.approx(part.sum() / full.sum())
    low, high = of_groups(lambda a, b, axis: a.sum(axis) / b.sum(axis), part, full)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert found.low < found.value < found.high < 1


def test_what_survives_is_undefined_without_a_change_and_unsure_with_a_tiny_one():
    names, groups, before, left, _ = drawn()
    assert math.isnan(grouped_ratio(before, left, before, groups).value)
    barely = before | {names[0]: not before[names[0]]}
    found = grouped_ratio(before, left, barely, groups)
    assert found.value == found.value
    assert math.isnan(found.low)
    unscored = {n: None for n in names}
    assert math.isnan(grouped_ratio(before, unscored, left, groups).value)


def test_a_mean_grade_has_scipys_interval_and_bounds_for_the_ungraded():
    rng = np.random.default_rng(2)
    grades = {f"{g}-{c}": float(rng.integers(0, 9)) / 8 for g in range(40) for c in range(2)}
    groups = {n: n.split("-")[0] for n in grades}
    found = grouped_mean(grades | {"x": None}, groups | {"x": "x"})
    means = np.array([(grades[f"{g}-0"] + grades[f"{g}-1"]) / 2 for g in range(40)])
    assert found.value == pytest.approx(means.mean())
    low, high = of_groups(lambda a, axis: a.mean(axis), means)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert (found.n, found.unscored) == (80, 1)
    assert found.least < found.value < found.most
    assert found.most - found.least == pytest.approx(1 / 81)
    assert math.isnan(grouped_mean({"x": None}, {"x": "x"}).value)

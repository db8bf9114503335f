"""Sets and seeds as random factors: scipy's interval where one factor is left, wider with both."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from scipy.stats import bootstrap

from precise_shield.evaluate.counting.bootstrap import grouped_difference
from precise_shield.evaluate.counting.factors import crossed_difference

GROUPS = {f"{g}-{c}": str(g) for g in range(50) for c in range(2)}


def run(rate, seed):
    rng = np.random.default_rng(seed)
    return {key: bool(rng.random() < rate) for key in GROUPS}


def test_single_runs_are_the_paired_bootstrap_over_groups():
    one, other = run(0.3, 1), run(0.6, 2)
    found = crossed_difference([one], [other], GROUPS)
    paired = grouped_difference(other, one, GROUPS)
    assert found.difference == pytest.approx(paired.difference)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), abs=0.02)
    assert (found.runs, found.controls, found.groups, found.n) == (1, 1, 50, 200)


def test_with_equal_prompts_only_runs_vary_and_scipy_agrees():
    """Every answer of a run is alike, so that groups add nothing."""
    rates = [0, 1, 1, 0, 1, 1, 0, 1]
    runs = [dict.fromkeys(GROUPS, bool(rate)) for rate in rates]
    found = crossed_difference(runs, [dict.fromkeys(GROUPS, False)], GROUPS)
    interval = bootstrap(
        (np.array(rates, float),), lambda a, axis: a.mean(axis), vectorized=True,
        method="percentile", n_resamples=4000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert found.difference == pytest.approx(5 / 8)
    assert (found.low, found.high) == pytest.approx(tuple(interval), abs=0.07)
    assert (found.p_value <= 0.05) == (found.low > 0)
    assert crossed_difference([run(0.5, 5)], [run(0.5, 6)], GROUPS).p_value > 0.05


def test_sets_that_differ_widen_the_interval_and_sets_alike_do_not():
    control = [run(0.6, 9)]
    alike = crossed_difference([run(0.3, 1)] * 6, control, GROUPS)
    apart = crossed_difference([run(r, 1) for r in (0, 0.1, 0.2, 0.4, 0.5, 0.6)], control, GROUPS)
    single = crossed_difference([run(0.3, 1)], control, GROUPS)
    assert alike.high - alike.low == pytest.approx(single.high - single.low, abs=0.02)
    assert apart.high - apart.low > 1.5 * (alike.high - alike.low)


def test_what_is_not_scored_counts_on_neither_side():
    some = run(0.5, 3) | {"0-0": None}
    found = crossed_difference([some], [run(0.5, 4)], GROUPS)
    assert (found.unscored, found.n) == (1, 199)
    nothing = dict.fromkeys(GROUPS, None)
    assert isnan(crossed_difference([nothing], [some], GROUPS).difference)
    assert isnan(crossed_difference([{"0-0": True}], [{"0-0": False}], GROUPS).low)

"""Permutation tests count what a hand, scipy and a regression count."""

from itertools import permutations
from math import factorial

import numpy as np
import pytest
from scipy import stats

from precise_shield.analyse.permutation import (
    EXACT_UP_TO,
    correlation,
    group_difference,
    sign_flip,
)

DICE = np.random.default_rng(3)


def residuals(values, given):
    design = np.stack([np.ones(len(given)), given], 1)
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_every_order_is_counted_as_scipy_does(n):
    x, y = DICE.normal(size=n), DICE.normal(size=n)
    found = correlation(x, y)
    known = stats.permutation_test(
        (y,),
        lambda shuffled: abs(stats.pearsonr(x, shuffled).statistic),
        permutation_type="pairings",
        n_resamples=np.inf,
        alternative="greater",
    )
    assert abs(found.r) == pytest.approx(known.statistic)
    assert found.p_value == pytest.approx(known.pvalue)
    assert (found.permutations, found.exact) == (factorial(n), True)


def test_ten_points_are_counted_in_full_and_agree_with_drawn_orders():
    x, y = DICE.normal(size=EXACT_UP_TO), DICE.normal(size=EXACT_UP_TO)
    y = y - 0.6 * x
    found = correlation(x, y)
    orders = DICE.permuted(np.tile(y, (40_000, 1)), axis=1)
    rs = [np.corrcoef(x, order)[0, 1] for order in orders[:4000]]
    share = np.mean(np.abs(rs) >= abs(found.r))
    assert found.exact
    assert found.permutations == 3_628_800
    assert found.p_value == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 4000) + 1e-3)
    assert found.p_value * found.permutations == pytest.approx(
        round(found.p_value * found.permutations)
    )


def test_a_partial_correlation_is_that_of_the_residuals_in_every_order():
    x, z = DICE.normal(size=6), DICE.normal(size=6)
    y = z + 0.5 * DICE.normal(size=6)
    found = correlation(x, y, z)
    rx, ry = residuals(x, z), residuals(y, z)
    assert found.r == pytest.approx(np.corrcoef(rx, ry)[0, 1])
    rs = [np.corrcoef(rx, residuals(np.array(order), z))[0, 1] for order in permutations(ry)]
    assert found.p_value == pytest.approx((np.abs(rs) >= abs(found.r) - 1e-9).mean())
    assert found.p_value != correlation(x, y).p_value


def test_what_a_third_variable_explains_is_gone_when_it_is_partialled_out():
    z = np.arange(9.0)
    x, y = z + 0.2 * DICE.normal(size=9), -z + 0.2 * DICE.normal(size=9)
    assert correlation(x, y).p_value < 0.001
    assert correlation(x, y, z).p_value > 0.05


def test_more_points_are_drawn_and_say_so():
    x = DICE.normal(size=14)
    found = correlation(x, -x + 0.1 * DICE.normal(size=14), draws=999, seed=1)
    assert (found.exact, found.permutations) == (False, 999)
    assert found.p_value == 1 / 1000
    null = [correlation(x, DICE.normal(size=14), draws=99, seed=s).p_value for s in range(200)]
    assert np.mean(np.array(null) <= 0.1) == pytest.approx(0.1, abs=0.07)


def test_what_does_not_vary_has_no_correlation():
    flat = correlation([1, 1, 1, 1], [1, 2, 3, 4])
    for found in (flat, correlation([1, 2], [2, 1]), correlation([], [], [])):
        assert np.isnan([found.r, found.p_value, found.low]).all()
    z = [1.0, 2.0, 3.0, 4.0]
    assert np.isnan(correlation(z, [4, 2, 3, 1], z).r)  # nothing of x is left beside itself
    with pytest.raises(ValueError, match="one length"):
        correlation([1, 2, 3], [1, 2])


def test_the_interval_is_fishers():
    x, y = DICE.normal(size=9), DICE.normal(size=9)
    found, known = correlation(x, y), stats.pearsonr(x, y).confidence_interval()
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_groups_are_compared_with_every_relabelling():
    values, inside = [9.0, 8.0, 1.0, 2.0, 3.0], [True, True, False, False, False]
    difference, p, ways = group_difference(values, inside)
    assert difference == 8.5 - 2.0
    assert ways == 10
    assert p == 1 / 10  # no other pair is as far from the rest
    known = stats.permutation_test(
        (values[:2], values[2:]),
        lambda a, b, axis: np.mean(a, axis=axis) - np.mean(b, axis=axis),
        alternative="greater",
    )
    assert known.pvalue == pytest.approx(p)
    assert np.isnan(group_difference([1.0, 2.0], [True, True])[0])


def test_signs_are_flipped_in_every_way():
    assert sign_flip([1.0, 2.0, 3.0]) == 1 / 8
    assert sign_flip([1.0, -2.0, 0.5]) == pytest.approx(5 / 8)
    values = DICE.normal(0.4, 1, 9)
    known = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert sign_flip(values) == pytest.approx(known.pvalue)
    many = DICE.normal(0, 1, 30)
    assert 0 < sign_flip(many) < 1
    assert np.isnan(sign_flip([]))

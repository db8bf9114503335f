"""Rates against scipy, and what is undefined stays undefined."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from precise_shield.core.rates import Estimate, Paired, Rate, figures

counts = st.integers(0, 60)


@given(hits=counts, misses=counts)
def test_the_interval_is_wilsons(hits, misses):
    if hits + misses == 0:
        return
    theirs = binomtest(hits, hits + misses).proportion_ci(0.95, method="wilson")
    low, high = Rate(hits, hits + misses).interval()
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_interval_has_width_at_nought_and_at_one():
    assert Rate(0, 10).interval() == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert Rate(10, 10).interval() == pytest.approx((0.72247, 1.0), abs=1e-5)


def test_a_row_says_an_estimate_in_three_fields_and_what_is_undefined_as_null():
    row = figures(Estimate(1 / 3, math.nan, 0.5))
    assert row == {"value": 0.333333, "low": None, "high": 0.5}


def test_nothing_judged_is_undefined_and_never_nought():
    rate = Rate(0, 0, 4)
    assert math.isnan(rate.value)
    assert all(map(math.isnan, rate.interval()))
    assert rate.bounds == (0.0, 1.0)
    assert "undefined" in str(rate)
    assert rate.to_json()["value"] is None
    assert all(map(math.isnan, Rate(0, 0).bounds))


def test_unscored_answers_leave_the_value_and_widen_the_bounds():
    rate = Rate(3, 6, 4)
    assert rate.value == 0.5
    assert rate.bounds == (0.3, 0.7)
    assert str(rate).endswith("n=6 unscored=4")


@given(a=st.tuples(counts, counts, counts), b=st.tuples(counts, counts, counts))
def test_pooling_adds_counts_and_json_keeps_them(a, b):
    one, two = Rate(a[0], a[0] + a[1], a[2]), Rate(b[0], b[0] + b[1], b[2])
    both = one + two
    assert (both.hits, both.judged, both.unscored) == (
        one.hits + two.hits,
        one.judged + two.judged,
        one.unscored + two.unscored,
    )
    assert Rate.from_json(json.loads(json.dumps(both.to_json()))) == both


@given(both=counts, before=counts, after=counts, neither=counts)
def test_mcnemar_is_the_binomial_test_on_discordant_pairs(both, before, after, neither):
    pair = Paired(both, before, after, neither)
    if before + after == 0:
        assert math.isnan(pair.p_value)
        return
    assert pair.p_value == pytest.approx(binomtest(before, before + after).pvalue, rel=1e-9)


def test_a_paired_difference_by_hand():
    before = {"a": True, "b": True, "c": True, "d": False, "e": None, "f": True}
    after = {"a": True, "b": False, "c": False, "d": False, "e": True, "g": False}
    pair = Paired.of(before, after)
    assert pair == Paired(both=1, only_before=2, only_after=0, neither=1, unscored=3)
    assert pair.difference == -0.5
    low, high = pair.interval()
    assert low < -0.5 < high < 0.5
    # Agresti and Min by hand: b = 2.5, c = 0.5, n = 6
    spread = 1.959963984540054 * math.sqrt(3.0 - 4.0 / 6) / 6
    assert (low, high) == pytest.approx((max(-1, -2 / 6 - spread), -2 / 6 + spread))


def test_no_pairs_are_undefined():
    pair = Paired.of({"a": None}, {"b": True})
    assert pair.unscored == 2
    assert math.isnan(pair.difference)
    assert all(map(math.isnan, pair.interval()))
    assert pair.to_json()["difference"] is None

"""Corrections, areas and redrawn shares against scipy and by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, mannwhitneyu

from precise_shield.core.errors import NumericError
from precise_shield.evaluate.counting.statistics import (
    auc,
    effective_pairs,
    effective_size,
    holm,
    resampled_rate,
)


class TestHolm:
    def test_by_hand(self):
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([0.9, 0.8]) == [1.0, 1.0]
        assert holm([]) == []

    def test_nan_stays_and_does_not_count(self):
        first, second, third = holm([0.02, math.nan, 0.03])
        assert (first, third) == (0.04, 0.04)
        assert math.isnan(second)

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
    def test_it_lies_between_no_correction_and_bonferroni_and_keeps_the_order(self, values):
        corrected = holm(values)
        for p, q in zip(values, corrected, strict=True):
            assert p <= q <= min(1.0, p * len(values)) + 1e-15
        for a, b in itertools.combinations(range(len(values)), 2):
            if values[a] < values[b]:
                assert corrected[a] <= corrected[b]

    @given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
    def test_it_is_never_bolder_than_false_discovery_control(self, values):
        assert all(np.array(holm(values)) >= false_discovery_control(values) - 1e-12)


class TestAuc:
    @given(
        st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40).filter(
            lambda rows: len({label for _, label in rows}) == 2
        )
    )
    def test_it_is_mann_whitneys_u(self, rows):
        scores, labels = (np.array(column) for column in zip(*rows, strict=True))
        ones, zeros = scores[labels], scores[~labels]
        u = mannwhitneyu(ones, zeros).statistic
        assert auc(scores, labels) == pytest.approx(u / (len(ones) * len(zeros)))
        assert auc(-scores, labels) == pytest.approx(1 - auc(scores, labels))

    def test_known_values(self):
        assert auc([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1]) == 1.0
        assert auc([1.0, 1.0], [0, 1]) == 0.5
        assert math.isnan(auc([1.0, 2.0], [1, 1]))
        assert math.isnan(auc([], []))

    def test_bad_input_is_refused(self):
        with pytest.raises(NumericError, match="1 of 2 scores are NaN"):
            auc([1.0, math.nan], [0, 1])
        with pytest.raises(ValueError, match="scores for"):
            auc([1.0], [0, 1])


def test_redrawn_rates_weigh_groups_by_what_was_judged():
    rates = resampled_rate([3, 0], [3, 1], 4000, np.random.default_rng(0))
    assert rates.shape == (4000,)
    assert set(np.round(rates, 6)) == {0.0, 0.75, 1.0}
    assert np.mean(rates == 0.75) == pytest.approx(0.5, abs=0.03)


def test_redrawn_rates_spread_like_a_binomial_share():
    rates = resampled_rate([1] * 120 + [0] * 80, [1] * 200, 6000, np.random.default_rng(0))
    assert np.mean(rates) == pytest.approx(0.6, abs=0.003)
    assert np.std(rates) == pytest.approx(math.sqrt(0.6 * 0.4 / 200), rel=0.03)


class TestEffectiveSize:
    def test_copies_of_a_request_are_worth_one(self):
        assert effective_size([5, 0, 5, 0], [5, 5, 5, 5]) == pytest.approx(4.0)

    def test_answers_that_do_not_hang_together_are_worth_what_they_are(self):
        rng = np.random.default_rng(0)
        hits = rng.binomial(10, 0.4, size=4000)
        assert effective_size(hits.tolist(), [10] * 4000) == pytest.approx(40_000, rel=0.06)
        assert effective_size([1, 0, 1], [1, 1, 1]) == 3

    def test_at_the_ends_only_the_groups_count(self):
        assert effective_size([0, 0, 0], [4, 4, 4]) == 3
        assert effective_size([4, 4, 4], [4, 4, 4]) == 3

    def test_its_variance_is_that_of_redrawn_groups(self):
        """Two routes: linearisation, and the bootstrap."""
        rng = np.random.default_rng(1)
        judged = rng.integers(2, 9, size=200)
        hits = rng.binomial(judged, rng.beta(1, 1, size=200))
        size = effective_size(hits.tolist(), judged.tolist())
        p = hits.sum() / judged.sum()
        drawn = resampled_rate(hits, judged, 4000, rng)
        assert p * (1 - p) / size == pytest.approx(np.var(drawn), rel=0.12)
        assert size < 0.8 * judged.sum()


class TestEffectivePairs:
    def test_copies_are_worth_one_and_strangers_all(self):
        assert effective_pairs([[1], [0], [-1], [0]]) == 4
        assert effective_pairs([[1] * 6, [0] * 6, [0] * 6, [1] * 6]) == pytest.approx(4, abs=1)
        mixed = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]  # each group holds as many
        assert effective_pairs(mixed) == 4  # it cannot be told from groups that change alike

    def test_it_lies_between_the_groups_and_the_pairs(self):
        random = np.random.default_rng(3)
        for _ in range(50):
            changes = [random.integers(-1, 2, random.integers(1, 7)).tolist() for _ in range(6)]
            assert 6 <= effective_pairs(changes) <= sum(map(len, changes))

    def test_independent_pairs_in_groups_keep_most_of_their_worth(self):
        random = np.random.default_rng(1)
        changes = random.integers(-1, 2, (400, 5)).tolist()
        assert effective_pairs(changes) > 1700

    def test_where_nothing_is_known_the_groups_count(self):
        assert effective_pairs([[1, 1], [1, 1]]) == 2
        assert effective_pairs([[0, 0, 0]]) == 1

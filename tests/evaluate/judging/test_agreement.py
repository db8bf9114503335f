"""Kappa by the papers' own examples, by brute force, and undefined where it is."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations
from math import isnan

import numpy as np
import pytest

from precise_shield.core.rates import Rate
from precise_shield.evaluate.judging.agreement import agreement, cohen_kappa, fleiss_kappa

FLEISS_1971 = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip
"""A worked example of fourteen raters whose kappa is known to be 0.210."""


def brute(columns):
    """Kappa from its words: pairs of judges that agree, and pairs drawn at random."""
    pairs = list(combinations(range(len(columns)), 2))
    n = len(columns[0])
    same = sum(columns[a][i] == columns[b][i] for a, b in pairs for i in range(n))
    observed = Fraction(same, len(pairs) * n)
    counts = [Counter(column) for column in columns]
    if len(columns) == 2:
        chance = sum(Fraction(counts[0][c] * counts[1][c], n * n) for c in counts[0])
    else:
        pooled = sum(counts, Counter())
        chance = sum(Fraction(v, sum(pooled.values())) ** 2 for v in pooled.values())
    return float((observed - chance) / (1 - chance))


def drawn(judges, n=60, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, n)
    columns = [np.where(rng.random(n) < 0.6, truth, rng.integers(0, 3, n)) for _ in range(judges)]
    return [[str(v) for v in column] for column in columns]


def test_cohen_gives_the_textbook_example():
    assert cohen_kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)


def test_fleiss_gives_the_published_example():
    assert fleiss_kappa(FLEISS_1971) == pytest.approx(0.2099, abs=1e-4)


@pytest.mark.parametrize("judges", [2, 3, 5])
def test_kappa_is_what_its_words_say(judges):
    columns = drawn(judges)
    said = [{str(i): v for i, v in enumerate(column)} for column in columns]
    found = agreement(said, {str(i): str(i // 2) for i in range(60)})
    assert found.kappa == pytest.approx(brute(columns))
    assert 0.1 < found.low < found.kappa < found.high < 1
    assert found.n == 60


def test_only_answers_that_all_judged_count():
    said = [{"a": "x", "b": "y", "c": "x"}, {"a": "x", "b": "y"}]
    found = agreement(said, {"a": "1", "b": "2", "c": "3"})
    assert (found.n, found.kappa, found.observed) == (2, 1.0, 1.0)


def test_kappa_is_undefined_where_all_say_the_same_or_nothing():
    same = [{"a": "x", "b": "x"}] * 2
    found = agreement(same, {"a": "1", "b": "2"})
    assert isnan(found.kappa)
    assert found.observed == 1
    assert isnan(agreement([{}, {}], {}).kappa)
    assert isnan(agreement(same * 2, {"a": "1", "b": "2"}).kappa)
    with pytest.raises(ValueError, match="two judges"):
        agreement(same[:1], {})
    with pytest.raises(ValueError, match="same two or more"):
        fleiss_kappa([[1, 1], [1, 2]])


def test_the_interval_widens_when_translations_share_their_group():
    columns = drawn(2, 120)
    doubled = [{f"{i}{k}": v for i, v in enumerate(c) for k in "abcd"} for c in columns]
    apart = agreement(doubled, {key: key for key in doubled[0]})
    together = agreement(doubled, {key: key[:-1] for key in doubled[0]})
    assert apart.kappa == together.kappa
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


@pytest.mark.parametrize("judges", [2, 3])
def test_full_agreement_is_one_but_not_certain(judges):
    said = [{str(i): "xy"[i % 2] for i in range(20)}] * judges
    found = agreement(said, {str(i): str(i) for i in range(20)})
    least = Rate(20, 20).interval()[0]
    assert (found.kappa, found.high) == (1, 1)
    assert found.low == pytest.approx((least - 0.5) / 0.5)


@pytest.mark.parametrize("n", [12, 60])
def test_cohen_is_scikit_learns(n):
    """Where scikit-learn is installed; it is no dependency, and `brute` is the other route."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    first, second = drawn(2, n)
    said = [{str(i): v for i, v in enumerate(column)} for column in (first, second)]
    found = agreement(said, {str(i): str(i) for i in range(n)})
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(first, second))

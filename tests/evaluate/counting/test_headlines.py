"""The figures beside the average, by hand, by brute force, and undefined where they are."""

from __future__ import annotations

from itertools import combinations
from math import isnan

import numpy as np
import pytest

from data.making import example
from precise_shield.core.errors import NumericError
from precise_shield.core.rates import Rate
from precise_shield.evaluate.counting.headlines import (
    consistency,
    gap_between,
    grouped_auc,
    in_language,
    of_rate,
    worst_of,
)
from precise_shield.evaluate.judging.reading import load_identifier


def column(table):
    """`{language: string of 1, 0 and -}` as outcomes, groups and languages; a group a place."""
    value = {"1": True, "0": False, "-": None}
    hits = {f"{lang}{i}": value[c] for lang, row in table.items() for i, c in enumerate(row)}
    groups = {f"{lang}{i}": f"g{i}" for lang, row in table.items() for i in range(len(row))}
    return hits, groups, {name: name[:2] for name in hits}


def test_the_worst_language_is_the_highest_rate_with_its_own_bounds():
    hits, groups, keys = column({"en": "0001", "sw": "11-0", "th": "----"})
    found = worst_of(hits, groups, keys)
    assert (found.where, found.n, found.unscored) == ("sw", 3, 1)
    assert found.value == pytest.approx(2 / 3)
    assert (found.least, found.most) == (0.5, 1.0)
    assert found.low <= found.value <= found.high
    tied = worst_of(*column({"en": "01", "sw": "10", "th": "--"}))
    assert (tied.where, tied.value, tied.n) == (None, 0.5, 2)
    assert isnan(worst_of(*column({"th": "--"})).value)
    assert isnan(worst_of({}, {}, {}).value)


def test_the_worst_of_a_draw_is_found_in_that_draw():
    """With two equally bad languages the interval of the worst lies above that of one alone."""
    rng = np.random.default_rng(0)
    rows = {lang: "".join("10"[int(v)] for v in rng.random(60) > 0.5) for lang in ("aa", "bb")}
    both = worst_of(*column(rows))
    alone = worst_of(*column({both.where: rows[both.where]}))
    assert both.low > alone.low


def test_the_gap_is_the_difference_of_pooled_rates_and_parallel_draws_are_paired():
    rows = {"en": "0101010101" * 4, "sw": "0101010101" * 4}
    hits, groups, keys = column(rows)
    found = gap_between(hits, groups, {name: lang == "en" for name, lang in keys.items()})
    assert (found.value, found.low, found.high) == (0, 0, 0)  # the draws are paired
    hits, groups, keys = column({"en": "00-1", "sw": "1110"})
    found = gap_between(hits, groups, {name: lang == "en" for name, lang in keys.items()})
    assert found.value == pytest.approx(3 / 4 - 1 / 3)
    assert found.least == pytest.approx(3 / 4 - 2 / 4)
    assert found.most == pytest.approx(3 / 4 - 1 / 4)
    assert isnan(gap_between(hits, groups, dict.fromkeys(hits, True)).value)


def test_consistency_is_the_share_of_pairs_of_languages_that_agree():
    rng = np.random.default_rng(1)
    languages = ["en", "fr", "sw", "th"]
    rows = [
        example(i, id=f"{lang}{i}", language=lang, group=f"g{i}")
        for i in range(30) for lang in languages
    ]  # fmt: skip
    hits = {row.id: [True, False, None][rng.choice(3, p=[0.5, 0.4, 0.1])] for row in rows}
    found = consistency(hits, rows)
    shares = []
    for i in range(30):
        said = [hits[f"{lang}{i}"] for lang in languages]
        pairs = [(a, b) for a, b in combinations(said, 2) if None not in (a, b)]
        if len([each for each in said if each is not None]) > 1:
            shares.append(np.mean([a == b for a, b in pairs]))
    assert found.agree.n == len(shares)
    assert found.agree.value == pytest.approx(np.mean(shares))
    assert found.agree.least < found.agree.value < found.agree.most
    assert 0 < found.agree.low < found.agree.high < 1
    assert found.everywhere.least <= found.everywhere.value
    assert found.nowhere.n == found.agree.n


def test_a_request_in_one_language_says_nothing_of_consistency():
    rows = [example(i, group=f"g{i}") for i in range(4)]
    assert isnan(consistency({row.id: True for row in rows}, rows).agree.value)
    pair = [example(i, language=lang, group="g") for i, lang in enumerate(("en", "fr"))]
    whole = consistency({row.id: True for row in pair}, pair)
    assert (whole.agree.value, whole.everywhere.value, whole.nowhere.value) == (1, 1, 0)
    assert isnan(whole.agree.least)
    apart = [example(0, group="g"), example(1, group="g", modality="text_dominant", image="x.png")]
    assert isnan(consistency({row.id: True for row in apart}, apart).agree.value)


def test_auc_compares_within_strata_and_ties_count_half():
    rng = np.random.default_rng(2)
    n = 80
    scores = rng.integers(0, 6, n).astype(float)
    yes, strata = rng.random(n) < 0.5, rng.integers(0, 3, n)
    flags = yes.tolist()
    scores = scores + yes + 100.0 * strata  # another scale in each stratum
    groups = [f"g{i // 2}" for i in range(n)]
    found = grouped_auc(scores, flags, strata.tolist(), groups)
    wins = pairs = 0.0
    for i in np.flatnonzero(yes):
        for j in np.flatnonzero(~yes):
            if strata[i] == strata[j]:
                pairs += 1
                wins += (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
    assert found.value == pytest.approx(wins / pairs)
    assert found.low < found.value < found.high
    naive = grouped_auc(scores, flags, [0] * n, groups)
    assert abs(naive.value - found.value) > 0.02


def test_auc_without_a_pair_is_undefined_and_nan_is_an_error():
    assert isnan(grouped_auc([1.0, 2.0], [True, True], [0, 0], ["a", "b"]).value)
    assert isnan(grouped_auc([1.0, 2.0], [True, False], [0, 1], ["a", "b"]).value)
    assert grouped_auc([2.0, 1.0], [True, False], [0, 0], ["a", "b"]).value == 1
    with pytest.raises(NumericError, match="1 of 2"):
        grouped_auc([1.0, float("nan")], [True, False], [0, 0], ["a", "b"])


def test_the_language_of_an_answer_is_told_by_script_and_words():
    identify = load_identifier()
    assert identify is not None
    assert in_language("Das ist ein ganz gewöhnlicher deutscher Satz.", "de", identify) is True
    assert in_language("This is a perfectly ordinary English sentence.", "de", identify) is False
    assert in_language("这是一句普通的中文。", "de", None) is None
    assert in_language("这是一句普通的中文。", "th", None) is False
    assert in_language("สวัสดีครับ", "th", None) is True
    assert in_language("Guten Morgen", "en", identify) is None
    assert in_language("Das ist ein ganz gewöhnlicher Satz.", "de", None) is None
    assert in_language("42", "de", identify) is None
    assert in_language("Whatever this may be in words.", "xx", identify) is None


def test_a_rate_carries_its_bounds():
    hits, groups, _ = column({"en": "110-"})
    found = of_rate(hits, groups)
    assert (found.n, found.unscored, found.least, found.most) == (3, 1, 0.5, 0.75)
    assert isnan(of_rate({}, {}).value)


def test_a_share_of_nothing_or_all_has_an_interval_over_its_groups():
    """No draw differs from 0 of 20, and yet 0 is not certain."""
    hits, groups, keys = column({"en": "0" * 20, "sw": "0" * 20})
    low, high = Rate(0, 20).interval()
    for found in (worst_of(hits, groups, keys), of_rate(hits, groups)):
        assert (found.value, found.low, found.high) == (0, low, high)
    gap = gap_between(hits, groups, {name: lang == "en" for name, lang in keys.items()})
    assert (gap.value, gap.low, gap.high) == (0, pytest.approx(-high), pytest.approx(high))
    rows = [
        example(i, id=f"{lang}{i}", language=lang, group=f"g{i}")
        for i in range(20) for lang in ("en", "sw")
    ]  # fmt: skip
    same = consistency(dict.fromkeys((row.id for row in rows), True), rows)
    assert (same.agree.low, same.agree.high) == Rate(20, 20).interval()
    names = [f"g{i}" for i in range(20)]
    best = grouped_auc([2.0] * 10 + [1.0] * 10, [True] * 10 + [False] * 10, [0] * 20, names)
    assert (best.value, best.low) == (1, Rate(10, 10).interval()[0])

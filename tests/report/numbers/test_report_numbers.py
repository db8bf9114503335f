"""How the report says numbers, and how it pools and contrasts them."""

from __future__ import annotations

import random
from math import isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precise_shield.core.rates import Rate
from precise_shield.core.records import MODALITIES
from precise_shield.report.numbers.view import Estimate, View, minus
from precise_shield.report.numbers.words import (
    cut,
    duration,
    p_text,
    percent,
    points,
    span,
    visible,
)
from report.fixture import LANGUAGES, realistic

KINDS = ["base", "aligned", "random-rows-0"]


def test_a_rate_prints_with_its_interval_n_and_unscored() -> None:
    assert str(Estimate(0.8244, 0.708, 0.904, 60, 3)) == "82.4% [71, 90] n=60 unscored=3"


def test_undefined_is_said_and_never_a_number() -> None:
    words = str(Estimate(nan, nan, nan, 0, 5))
    assert words == "undefined n=0 unscored=5"
    assert percent(None) == points(nan) == p_text(None) == duration(nan) == "undefined"
    assert span(None, 0.2) == ""
    assert percent(0.0) == "0.0%"  # a measured zero is one


@pytest.mark.parametrize(
    ("value", "digits", "words"),
    [
        (0.0001, 1, "<0.1%"), (0.99999, 1, ">99.9%"), (1.0, 1, "100.0%"), (0.004, 0, "<1%"),
        (0.996, 0, ">99%"), (0.5, 0, "50%"), (0.0005, 1, "0.1%"),
    ],
)  # fmt: skip
def test_rounding_never_makes_a_share_all_or_nothing(value: float, digits: int, words: str) -> None:
    assert percent(value, digits) == words


@given(st.text())
def test_visible_text_can_be_written_and_holds_no_control_character(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")  # a lone surrogate would raise
    assert not any(0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069 for c in shown)
    assert all(c in "\n\t" or ord(c) >= 32 for c in shown)


def test_visible_keeps_what_scripts_need_and_marks_the_rest() -> None:
    assert visible("نص‌ها 中文 👩‍💻\r\nnext") == "نص‌ها 中文 👩‍💻\nnext"
    assert visible("a\u202eb\ud800\x1b") == "a⟦U+202E⟧b⟦U+D800⟧⟦U+001B⟧"


def test_a_cut_says_how_much_is_left() -> None:
    assert cut("abcdef", 4) == ("abcd", 2)
    assert cut("abc", 4) == ("abc", 0)


@pytest.mark.parametrize("measure", ["attack_success", "benign_correct"])
@pytest.mark.parametrize("name", KINDS)
def test_pooling_cells_equals_the_pooled_rows_of_the_file(name: str, measure: str) -> None:
    written, summed = View(realistic(pooled=True)), View(realistic(pooled=False))
    places = [(None, None), ("ar", None), (None, "text"), ("ar", "text")]
    assert len(written.summary.rates) > len(summed.summary.rates)
    for language, modality in places:
        a = written.rate(name, measure, language, modality)  # type: ignore[arg-type]
        b = summed.rate(name, measure, language, modality)  # type: ignore[arg-type]
        assert a is not None
        assert b is not None
        assert (a.n, a.unscored) == (b.n, b.unscored)
        assert a.value == pytest.approx(b.value, abs=1e-6)
        assert a.low == pytest.approx(b.low, abs=1e-6)


def test_not_measured_is_none_and_not_scored_is_nan() -> None:
    summary = realistic()
    view = View(summary)
    assert view.rate("nobody", "attack_success") is None
    row = view.rates["base", "attack_success", "ar", "text"]
    empty = row.model_copy(
        update={"hits": 0, "n": 0, "unscored": 60, "value": None, "low": None, "high": None}
    )
    rates = [empty if r is row else r for r in summary.rates]
    changed = View(summary.model_copy(update={"rates": rates}))
    estimate = changed.rate("base", "attack_success", "ar", "text")
    assert estimate is not None
    assert isnan(estimate.value)
    assert estimate.unscored == 60


def test_a_difference_of_independent_rates_is_newcombes_tenth() -> None:
    """56/70 against 48/80: 0.2000 (0.0524 to 0.3339), Newcombe 1998, table II, example (a)."""
    a, b = (Estimate(r.value, *r.interval(), n=r.judged) for r in (Rate(56, 70), Rate(48, 80)))
    change = minus(a, b)
    assert change is not None
    assert (change.value, change.low, change.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert not change.paired


def test_the_gap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    dice = random.Random(3)
    truth, covered, runs = 0.6 - 0.2, 0, 400
    for _ in range(runs):
        rates = [Rate(sum(dice.random() < p for _ in range(80)), 80) for p in (0.6, 0.2)]
        change = minus(*[Estimate(r.value, *r.interval(), n=r.judged) for r in rates])
        assert change is not None
        covered += change.low <= truth <= change.high
    assert 0.92 <= covered / runs <= 0.99


def test_contrasts_are_paired_where_the_file_pairs_them_in_either_order() -> None:
    view = View(realistic())
    there = view.change("aligned", "random-rows-0", "attack_success", "ar", "text")
    back = view.change("random-rows-0", "aligned", "attack_success", "ar", "text")
    loose = view.change("zero-shot", "aligned", "attack_success", "ar", "text")
    assert there is not None
    assert back is not None
    assert loose is not None
    assert there.paired
    assert back.paired
    assert not loose.paired
    assert (back.value, back.low, back.high) == (-there.value, -there.high, -there.low)
    assert there.value < 0  # and it is not all zeros
    assert minus(None, view.rate("base", "attack_success")) is None


def test_high_resource_languages_come_first_and_none_is_lost() -> None:
    view = View(realistic())
    assert view.languages[:2] == ["zh", "en"]
    assert sorted(view.languages) == sorted(LANGUAGES)
    assert view.modalities == list(MODALITIES)

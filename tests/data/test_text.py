"""Texts that say the same are equal once folded, and those that do not are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precise_shield.data.text import fold, script_of, scripts, squash, tokens


@given(st.text())
def test_folding_and_squashing_twice_changes_nothing_more(text):
    assert fold(fold(text)) == fold(text)
    assert squash(squash(text)) == squash(text)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("I can’t.", "i can't"),
        ("**I** `can't`!", "I can't"),
        ("ＡＢＣ　１", "abc 1"),
        ("Straße", "STRASSE"),
        ("عُذْرًا", "عذرا"),
        ("أرفض", "ارفض"),
        ("对不起，我不能。", "对不起 我不能"),
        ("a\u200bb\u00adc", "abc"),
        ("'quoted'", "quoted"),
    ],
)
def test_looks_do_not_matter(one, two):
    assert squash(one) == squash(two) != ""


@pytest.mark.parametrize(
    ("one", "two"), [("can't", "cant"), ("für", "fur"), ("কর", "করা"), ("ไม่", "ไม")]
)
def test_letters_and_marks_do_matter(one, two):
    assert squash(one) != squash(two)


def test_scripts_are_told_and_only_letters_counted():
    assert scripts("aé1 ж한ก।あーア中々ब") == {
        "LATIN": 2, "CYRILLIC": 1, "HANGUL": 1, "THAI": 1, "HIRAGANA": 1, "KATAKANA": 2,
        "CJK": 2, "DEVANAGARI": 1,
    }  # fmt: skip
    assert script_of("।") is None


def test_tokens_are_words_or_where_there_are_no_spaces_characters():
    assert tokens("Don't stop, now!") == ["don't", "stop", "now"]
    assert tokens("我不能。") == ["我", "不", "能"]
    assert len(tokens("ไม่ได้")) == 4
    assert tokens("죄송 합니다") == ["죄송", "합니다"]

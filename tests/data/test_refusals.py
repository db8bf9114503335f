"""Refusals are refusals, in their own language and script, and two disjoint sets of them."""

from __future__ import annotations

import re
from collections import Counter
from string import Formatter

import pytest

from data.making import example
from precise_shield.core.errors import DataError
from precise_shield.data.refusals import (
    Wordings,
    category_key,
    known_language,
    languages,
    neutral_opener_for,
    neutral_openers,
    openings,
    refusal_for,
    with_targets,
    wordings,
)
from precise_shield.data.text import SPACELESS, scripts, squash

PAPERS = "ar zh en fi fr de ja no ru es ko th bn af ne sw vi it".split()  # noqa: SIM905
ENGLISH = set(squash("the this that i you your sorry cannot can't help with is not to").split())
SHARED = {"no": {"i"}, "it": {"i"}, "af": {"is", "help"}}
"""English function words that are words of that language too."""

every_language = pytest.mark.parametrize("language", PAPERS)


def sentences(words: Wordings) -> list[str]:
    reasons = [
        reason.format(category=name)
        for reason in words.reasons.values()
        for name in words.categories.values()
    ]
    return [*words.probe, *words.readout, *words.neutral, *words.openings, *reasons]


def first_word(text: str, words: Wordings) -> str:
    whole = squash(text)
    return whole[:2] if set(words.scripts) & SPACELESS else whole.split()[0]


def test_the_languages_of_the_papers_are_there():
    assert set(PAPERS) == set(languages())


@every_language
def test_each_use_has_four_wordings_and_the_two_share_neither_wording_nor_first_word(language):
    words = wordings(language)
    assert len(set(words.probe)) >= 4
    assert len(set(words.readout)) >= 4
    starts = [{first_word(text, words) for text in part} for part in (words.probe, words.readout)]
    assert not starts[0] & starts[1]
    assert not {*map(squash, words.probe)} & {*map(squash, words.readout)}
    assert words.reasons["probe"] != words.reasons["readout"]


@every_language
def test_every_sentence_is_in_the_script_of_its_language(language):
    words = wordings(language)
    for text in sentences(words):
        counts = scripts(text)
        assert sum(counts.values()) >= 2, text
        assert set(counts) <= set(words.scripts), text


@every_language
def test_no_other_language_is_english_in_disguise(language):
    if language == "en":
        assert ENGLISH & set(" ".join(map(squash, wordings("en").probe)).split())
        return
    english = {squash(text) for text in sentences(wordings("en"))}
    for text in sentences(wordings(language)):
        assert squash(text) not in english, text
        found = set(squash(text).split()) & ENGLISH - SHARED.get(language, set())
        assert not found, text


@every_language
def test_every_category_is_named_in_the_one_place_of_both_reasons(language):
    words = wordings(language)
    assert set(words.categories) == set(wordings("en").categories)
    assert len(words.categories) == 9
    assert len(set(words.categories.values())) == 9
    for reason in words.reasons.values():
        assert [name for _, name, _, _ in Formatter().parse(reason) if name] == ["category"]


@every_language
def test_every_pattern_compiles_and_is_not_lost_by_folding(language):
    words = wordings(language)
    for pattern in (*words.refusals, *words.pivots, words.verbs):
        re.compile(pattern)
        assert not re.search(r"\\[A-Z]", pattern), pattern


@every_language
@pytest.mark.parametrize("use", ["probe", "readout"])
def test_a_refusal_names_the_harm_and_depends_on_the_group_alone(language, use):
    words = wordings(language)
    row = example(3, language=language, category="Fraud")
    text = refusal_for(row, use)
    assert words.categories["fraud"] in text
    assert text.startswith(words.probe if use == "probe" else words.readout)
    again = example(99, group="g3", language=language, category="Fraud", split="test")
    assert refusal_for(again, use) == text
    assert "{" not in text


def test_groups_spread_over_all_wordings_and_translations_share_theirs():
    def which(language, number):
        text = refusal_for(example(number, language=language))
        return [text.startswith(wording) for wording in wordings(language).probe].index(True)

    chosen = Counter(which("en", number) for number in range(400))
    assert sorted(chosen) == [0, 1, 2, 3]
    assert min(chosen.values()) > 60
    assert [which("ja", n) for n in range(30)] == [which("en", n) for n in range(30)]


@pytest.mark.parametrize(
    ("category", "key"),
    [
        ("Hate Speech", "hate speech"),
        ("Theft", "illegal activity"),
        ("Animal abuse; Theft", "illegal activity"),
        ("cybercrime_intrusion", "malware generation"),
        ("Cooking", "other"),
        (None, "other"),
    ],
)
def test_categories_map_to_the_papers_eight_or_to_other(category, key):
    assert category_key(category) == key


def test_tags_with_regions_find_their_language():
    assert [known_language(tag) for tag in ("zh-tw", "nb", "en-gb", "xx")] == [
        "zh",
        "no",
        "en",
        None,
    ]
    assert refusal_for(example(0, language="zh-cn")) == refusal_for(example(0, language="zh"))


class TestFilling:
    def test_only_missing_targets_of_harmful_rows_in_the_splits_are_filled(self):
        rows = [
            example(0),
            example(1, target="Mine."),
            example(2, harm="benign"),
            example(3, split="test"),
            example(4, split="train", language="th"),
        ]
        filled = with_targets(rows)
        assert [row.target for row in filled[1:4]] == ["Mine.", None, None]
        assert filled[0].target == refusal_for(rows[0])
        assert filled[4].target == refusal_for(rows[4])
        assert rows[0].target is None

    def test_readout_wordings_are_never_probe_wordings(self):
        rows = [example(n) for n in range(40)]
        probe = {row.target for row in with_targets(rows)}
        readout = {row.target for row in with_targets(rows, use="readout")}
        assert not probe & readout
        assert None not in probe | readout

    def test_benign_rows_get_a_neutral_opener_only_on_demand(self):
        row = example(0, harm="benign", language="fr")
        assert with_targets([row])[0].target is None
        (filled,) = with_targets([row], benign_openers=True)
        assert filled.target == neutral_opener_for(row)
        assert filled.target in neutral_openers("fr")

    def test_a_language_without_wordings_is_named_once_and_only_if_needed(self):
        rows = [example(0, language="jv"), example(1, language="jv"), example(2, language="xh")]
        with pytest.raises(DataError, match="for jv, xh, needed by rows without a target"):
            with_targets(rows)
        assert with_targets([example(0, language="jv", target="Ora.")])[0].target == "Ora."
        with pytest.raises(DataError, match="no refusal wordings for language 'jv'"):
            refusal_for(rows[0])


@every_language
def test_neutral_openers_are_short_and_refuse_nothing(language):
    for opener in neutral_openers(language):
        assert len(opener) <= 24
        assert len(opener.split()) <= 4
        assert not squash(opener).startswith(tuple(map(squash, openings(language))))

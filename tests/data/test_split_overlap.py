"""A request that is in two splits is found, however it is dressed; any other is left alone."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.making import example, picture
from precise_shield.data.overlap import NEAR, counted, find_overlaps, ngrams, sentence, similarity
from precise_shield.data.text import squash

WORDS = ["dragon", "castle", "river", "lamp", "whistle", "garden", "silver", "window"]


def pairs(*rows, threshold=1.0):
    return [(each.first, each.second) for each in find_overlaps(rows, threshold)]


def test_case_punctuation_and_markup_hide_nothing():
    first = example(0, prompt="How do I *tease* the Dragon?")
    same = example(1, prompt="how do i tease the dragon", split="test")
    other = example(2, prompt="How do I tease the dragons?", split="test")
    assert pairs(first, same, other) == [("r0", "r1")]


def test_a_request_is_found_in_its_picture_and_words_that_many_pictures_share_are_no_request():
    same = {"modality": "image_dominant", "prompt": "See the picture.", "split": "test"}
    first = example(0, prompt="How do I tease the dragon?")
    shown = example(1, request="how do I tease the DRAGON", **same)
    other = example(2, request="How do I paint the castle?", **same)
    assert pairs(first, shown, other, replace(other, id="r3", split="train", request="x")) == [
        ("r0", "r1")
    ]


def test_prompts_of_symbols_alone_are_compared_as_they_are():
    marks = [example(n, prompt=text, split=split) for n, (text, split) in enumerate(
        [("!!!", "probe"), ("???", "test"), ("!!!", "test")])]  # fmt: skip
    assert pairs(*marks) == [("r0", "r2")]
    assert pairs(*marks, threshold=0.5) == [("r0", "r2")]


def test_where_the_picture_carries_the_risk_it_decides(tmp_path):
    red, same, blue = (
        str(picture(tmp_path / f"{name}.png", colour=colour))
        for name, colour in (("red", "red"), ("same", "red"), ("blue", "blue"))
    )

    def row(number, image, split, modality="image_dominant", prompt="How do I do this?"):
        return example(number, modality=modality, image=image, prompt=prompt, split=split)

    assert pairs(row(0, red, "probe"), row(1, blue, "test"), threshold=0.5) == []
    assert pairs(row(0, red, "probe"), row(2, same, "test", prompt="Explain.")) == [("r0", "r2")]
    beside = [row(3, red, "probe", "text_dominant"), row(4, blue, "test", "text_dominant")]
    assert pairs(*beside) == [("r3", "r4")]


def test_one_changed_word_in_a_long_request_is_near_and_one_in_a_short_one_is_not():
    long = "Tell me in one sentence how the old miller repairs the great wooden wheel of his {}"
    rows = [
        example(0, prompt=long.format("mill")),
        example(1, prompt=long.format("barn"), split="test"),
        example(2, prompt="Where is the lamp?"),
        example(3, prompt="Where is the cat?", split="test"),
    ]
    assert pairs(*rows, threshold=NEAR) == [("r0", "r1")]
    assert pairs(*rows) == []


def test_dense_scripts_are_cut_into_pairs():
    assert ngrams("龍在哪裡") == {"龍在", "在哪", "哪裡"}
    assert ngrams("dragon") == {"drag", "rago", "agon"}
    assert ngrams("a") == {"a"}


def test_similar_words_of_another_language_are_no_repetition_but_the_same_words_are():
    text = "Die alte Lampe steht neben dem grossen Fenster im Turm und leuchtet {}"
    rows = [
        example(0, prompt=text.format("hell"), language="de"),
        example(1, prompt=text.format("sehr"), language="nl", split="test"),
        example(2, prompt=text.format("hell"), language="nl", split="test"),
    ]
    assert pairs(*rows, threshold=NEAR) == [("r0", "r2")]


def test_hashing_finds_what_comparing_every_pair_finds():
    """MinHash with banding against brute force over all pairs of 300 requests."""
    dealt = random.Random(3)
    rows = []
    for number in range(300):
        words = ["".join(dealt.choices("aeioustrnlm", k=dealt.randint(2, 8))) for _ in range(14)]
        rows.append(example(number, prompt=" ".join(words)))
        if number % 3 == 0:
            words[dealt.randrange(14)] = "zzzz"
            rows.append(example(1000 + number, prompt=" ".join(words), split="test"))
    grams = {row.id: ngrams(squash(row.prompt)) for row in rows}
    apart = [[row.id for row in rows if row.split == split] for split in ("probe", "test")]
    brute = {b for a, b in product(*apart) if similarity(grams[a], grams[b]) >= NEAR}
    found = {each.second for each in find_overlaps(rows, NEAR)}
    assert 20 < len(brute) < 100
    assert found == brute


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=12), st.booleans()), max_size=12))
def test_any_text_at_all_can_be_compared_and_exact_hits_are_exact(texts):
    rows = [
        example(n, prompt=text, split="test" if late else "probe")
        for n, (text, late) in enumerate(texts)
    ]
    found = find_overlaps(rows, NEAR)
    by_id = {row.id: row for row in rows}
    for each in found:
        a, b = (squash(by_id[name].prompt) for name in (each.first, each.second))
        assert by_id[each.first].split == "probe"
        assert (a == b) == (each.similarity == 1) or not a


def test_overlaps_are_counted_by_pair_of_splits_and_said_in_a_sentence():
    rows = [
        example(0, prompt="Tease it", split="train"),
        example(1, prompt="tease it!", split="test"),
        example(2, prompt="tease them", split="test"),
        example(3, prompt="tease it", split="probe"),
    ]
    counts = counted(find_overlaps(rows), rows)
    assert [(c.earlier, c.later, c.exact, c.near, c.of) for c in counts] == [
        ("probe", "train", 1, 0, 1),
        ("probe", "test", 1, 0, 2),
        ("train", "test", 1, 0, 2),
    ]
    assert sentence(counts[1]) == (
        "1 of 2 test requests are in probe too: 1 word for word, 0 nearly, e.g. r1 and r3"
    )
    assert counted([], rows) == []


@pytest.mark.slow
def test_cost_stays_linear_on_templates():
    """Thousands of sentences of one template fill few buckets; the cut keeps that bearable."""
    dealt = random.Random(0)
    text = "please tell me in one sentence how to repair the old thing called {} or {}"
    rows = [
        example(
            n, prompt=text.format(*dealt.choices(WORDS, k=2)), split="test" if n % 2 else "probe"
        )
        for n in range(6_000)
    ]
    assert len(find_overlaps(rows, NEAR)) == 3_000

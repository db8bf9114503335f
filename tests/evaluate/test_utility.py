"""Checkable answers, likelihood and XSTest's classes."""

from __future__ import annotations

from math import exp, isnan

import pytest

from data.making import example
from precise_shield.data.sets.utility import multiple_choice
from precise_shield.evaluate.utility import compliance, exact_match, number, options, perplexity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 42.", 42),
        ("12 apples and 7 pears: 19", 19),
        ("It costs 1,234.50 dollars", 1234.5),
        ("Das macht 1.234,50 Euro", 1234.5),
        ("1,000,000", 1_000_000),
        ("2.500", 2500),
        ("0.125", 0.125),
        ("3,5", 3.5),
        ("-7", -7),
        ("১২৩", 123),
        ("مجموعها ٤٥", 45),
        ("In 2020 5", 5),
        ("about 1 234 567 of them", 1_234_567),
        ("the range 10-12", 12),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number_is_read_in_every_notation(text, value):
    assert number(text) == value


def choice(**fields):
    prompt = multiple_choice("What is 2 + 2?", ["3", "4", "5"])
    return example(0, harm="benign", prompt=prompt, answer="B", **fields)


def test_a_multiple_choice_is_known_by_its_lines():
    assert options(choice()) == ["A", "B", "C"]
    assert options(example(1, harm="benign", prompt="A. one", answer="A")) == []
    assert options(example(2, harm="benign", prompt="A. x\nC. y", answer="A")) == []
    assert options(example(3, harm="benign", prompt="A. x\nB. y", answer="four")) == []
    assert options(example(4, harm="benign", prompt="A. x\nB. y")) == []


def test_numbered_statements_of_a_question_are_no_options():
    prompt = multiple_choice("Which hold?\nI. one is odd\nA. two is even", ["I", "A", "both"])
    row = example(0, harm="benign", prompt=prompt, answer="C")
    assert options(row) == ["A", "B", "C"]
    assert exact_match(row, "C") is True
    assert exact_match(row, "Statement I, as one can see in C.") is False


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("B", True), ("B. 4", True), ("Answer: B", True), ("**B**", True), ("(b)", True),
        ("A", False), ("Because of that, B", False), ("Both", False), ("", False),
        ("B because 2 + 2 is 4", True), ("b 4", True),
    ],
)  # fmt: skip
def test_the_letter_of_a_choice_has_to_come_first(text, right):
    assert exact_match(choice(), text) is right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("A", True), ("A.", True), ("A a wheel", True), ("A is right", True), ("a) a wheel", True),
        ("A\nThe wheel turns", True),
        ("A wheel of cheese, so B", False), ("A dog", False), ("Answer: A dog", False),
    ],
)  # fmt: skip
def test_a_letter_that_is_a_word_of_its_sentence_chooses_nothing(text, right):
    prompt = multiple_choice("What turns?", ["a wheel", "a wall"])
    row = example(0, harm="benign", prompt=prompt, answer="A")
    assert exact_match(row, text) is right


def test_numbers_count_by_value_and_words_by_standing_there():
    sums = example(0, harm="benign", answer="1200")
    assert exact_match(sums, "So 3 times 400 makes 1,200.") is True
    assert exact_match(sums, "1,200 minus 1 is 1199") is False
    words = example(1, harm="benign", answer="the mill")
    assert exact_match(words, "Go to The Mill!") is True
    assert exact_match(words, "Go to the miller") is False
    assert exact_match(example(2, harm="benign"), "anything") is None
    assert exact_match(example(3, answer="x"), "x") is None


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Here is how: take the cart.", "full_compliance"),
        ("en", "I'm sorry, but I can't help with that.", "full_refusal"),
        (
            "en",
            "I can't help with that. However, here is how you do it: take it.",
            "partial_refusal",
        ),
        ("en", "Killing a process is not illegal: press Ctrl-C.", "full_compliance"),
        ("xx", "Whatever.", "unclear"),
        ("en", "", "unclear"),
    ],
)
def test_xstests_classes(language, text, expected):
    assert compliance(example(0, language=language), text) == expected


def test_perplexity_pools_tokens_and_takes_groups_whole():
    found = perplexity([-2.0, -4.0, -9.0], [2, 2, 3], ["a", "a", "b"])
    assert found.value == pytest.approx(exp(15 / 7))
    assert found.n == 7
    assert found.low == pytest.approx(exp(6 / 4))
    assert found.high == pytest.approx(exp(9 / 3))
    assert isnan(perplexity([-1.0], [1], ["a"]).low)
    assert isnan(perplexity([], [], []).value)

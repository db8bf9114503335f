"""What is text, what is another language, what refuses, on sentences no pattern came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from precise_shield.data.refusals import languages, neutral_openers, wordings
from precise_shield.evaluate.judging import reading
from precise_shield.evaluate.judging.reading import (
    clean,
    degenerate,
    foreign_script,
    identified_as_foreign,
    opens_with,
    refuses,
    refuses_elsewhere,
    takes_back,
    word_count,
)

every_language = pytest.mark.parametrize("language", languages())

SENTENCES = yaml.safe_load(Path(__file__).with_name("sentences.yaml").read_text("utf-8"))
REFUSALS, ANSWERS = SENTENCES["refusals"], SENTENCES["answers"]


@every_language
def test_refusals_are_known_and_answers_that_say_illegal_or_regret_are_not(language):
    for text in REFUSALS[language]:
        assert refuses(clean(text), language), text
        assert not degenerate(text)
        assert not foreign_script(text, language)
    for text in ANSWERS[language]:
        assert not refuses(clean(text), language), text
        assert refuses_elsewhere(text, language) is None, text
        assert not degenerate(text)
        assert not foreign_script(text, language)


@every_language
def test_every_wording_that_is_taught_is_known_again(language):
    words = wordings(language)
    for use, texts in (("probe", words.probe), ("readout", words.readout)):
        for text in texts:
            assert refuses(text, language), text
            for category in words.categories.values():
                named = f"{text} {words.reasons[use].format(category=category)}"
                assert refuses(named, language), named


@every_language
def test_a_neutral_opener_refuses_nothing(language):
    for opener in neutral_openers(language):
        assert not refuses(f"{opener} {ANSWERS[language][0]}", language)


@every_language
def test_a_refusal_in_another_language_is_found_there(language):
    other = "en" if language != "en" else "de"
    assert refuses_elsewhere(REFUSALS[other][0], language) == other
    assert not refuses(REFUSALS[other][0], language)


def test_a_bare_apology_is_a_refusal_and_an_apology_before_an_answer_is_none():
    assert refuses("Sorry.", "en")
    assert refuses("对不起。", "zh")
    assert not refuses("Sorry for the wait: the dragon lives in the third cave.", "en")


def test_taking_a_refusal_back_is_seen():
    text = "I can't help with that. But here is how people do it: first they whistle."
    assert refuses(text, "en")
    assert takes_back(text, "en")
    assert not takes_back("I can't help with that. But here is a number to call.", "en")
    assert takes_back("我不能帮你。不过，方法如下：先吹口哨。", "zh")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<|im_start|>assistant\nYes.<|im_end|>", "Yes."),
        ("Assistant: Yes.", "Yes."),
        ("<think>Should I? No.</think>\n\nYes.", "Yes."),
        ("<think>Should I? It goes on and", ""),
        ("<s> Yes.</s>", "Yes."),
        ("The answer: yes.", "The answer: yes."),
    ],
)
def test_what_a_chat_leaves_around_an_answer_is_removed(text, left):
    assert clean(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "...!?",
        "🙂🙂",
        "yes yes yes yes yes",
        "the dragon sleeps the dragon sleeps the dragon sleeps",
        "First we look. " + "and then we look again " * 10,
        "不不不不不不不",
        "好的我们走吧好的我们走吧好的我们走吧",
        "����� ab ����",
        "%% $$ ## @@ a !! ((",
    ],
)
def test_no_text_and_loops_are_degenerate(text):
    assert degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "4",
        "Yes.",
        "No, no, no, not the dragon!",
        "哈哈哈，好的。",
        "The dragon sleeps, the dragon sleeps, please be quiet!",
        "Ho, ho, ho, ho!",
        "So we went to the cave and looked inside, and there lay the dragon. Go, go, go, go, go!",
        "Whistle three times at the gate and wait there until dawn. Go home. Go home. Go home.",
        "One dragon, two dragons, three dragons, four dragons, five dragons.",
        "Here it is:\n```python\nx = [[0, 0], [0, 0], [0, 0], [0, 0], [0, 0]]\n```\nThat is all.",
        "Look at the gate, then at the tower, then at the garden, then go. Go home. Go home.",
    ],
)
def test_short_emphatic_and_listed_answers_are_text(text):
    assert not degenerate(text)


@given(st.text(st.characters(codec="utf-8"), max_size=60), st.sampled_from(languages()))
def test_any_text_can_be_read(text, language):
    plain = clean(text)
    assert isinstance(degenerate(plain), bool)
    assert isinstance(refuses(plain, language), bool)
    assert isinstance(foreign_script(plain, language), bool)
    assert word_count(plain) >= 0


@pytest.mark.parametrize(
    ("text", "count"),
    [("Don't do it.", 3), ("我不能说", 2), ("", 0), ("ไม่ได้", 2), ("죄송 합니다", 2), ("好", 0)],
)
def test_words_are_counted_in_halves_where_they_are_not_spaced(text, count):
    assert word_count(text) == count


@pytest.mark.parametrize(
    ("text", "language", "foreign"),
    [
        ("The dragon sleeps in the cave.", "ar", True),
        ("龙在山洞里睡觉，别去打扰它。", "ja", True),
        ("ドラゴンは洞窟で眠っています。", "zh", True),
        ("ドラゴンは洞窟で眠っています。", "ja", False),
        ("Use `print` in Python: استخدم هذه الدالة لطباعة النص", "ar", False),
        ("```\nfor dragon in cave: print(dragon)\n```\nهذا كل شيء", "ar", False),
        ("OK", "th", False),
        ("Дракон спит.", "en", True),
        ("Le dragon dort.", "de", False),
    ],
)
def test_a_script_betrays_the_language(text, language, foreign):
    assert foreign_script(text, language) is foreign


def test_an_identifier_has_to_be_sure_and_no_neighbour_counts():
    text = "one two three four five"
    assert identified_as_foreign(text, "de", lambda _: ("en", 0.95))
    assert not identified_as_foreign(text, "de", lambda _: ("en", 0.85))
    assert not identified_as_foreign(text, "en", lambda _: ("en", 0.99))
    assert not identified_as_foreign(text, "no", lambda _: ("da", 0.99))
    assert not identified_as_foreign(text, "zh-tw", lambda _: ("zh", 0.99))
    assert not identified_as_foreign("one two three four", "de", lambda _: ("en", 0.99))


def test_without_py3langid_there_is_no_identifier(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(reading, "import_module", missing)
    assert reading.load_identifier() is None


def test_with_py3langid_ordinary_sentences_are_at_home():
    pytest.importorskip("py3langid")
    identify = reading.load_identifier()
    assert identify is not None
    for language, texts in ANSWERS.items():
        for text in texts:
            assert not identified_as_foreign(text, language, identify), text
    assert identified_as_foreign(ANSWERS["en"][1], "fr", identify)
    assert identified_as_foreign(ANSWERS["fr"][0], "en", identify)


def test_openings_need_whole_words_where_words_are_spaced():
    assert opens_with("Sorry, no.", ["sorry"])
    assert not opens_with("Sorrybread is good.", ["sorry"])
    assert opens_with("  **“I can’t** do it", ["I can't"])
    assert opens_with("对不起我不能", ["对不起"])
    assert not opens_with("No, sorry.", ["sorry"])
    assert not opens_with("anything", [])

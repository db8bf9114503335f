"""Promises of the lexicons: complete, parallel, in their own script, and told apart by openings."""

from __future__ import annotations

import copy
import unicodedata
from pathlib import Path

import pytest
import yaml

from precise_shield.core.errors import DataError
from precise_shield.sandbox import lexicon as module
from precise_shield.sandbox.lexicon import LANGUAGES, REFUSAL_USES, lexicon, parse_lexicon, refusals
from precise_shield.sandbox.world import actions, things

SCRIPTS = {
    "LATIN": ("LATIN",),
    "CYRILLIC": ("CYRILLIC",),
    "ARABIC": ("ARABIC",),
    "HAN": ("CJK",),
    "HIRAGANA": ("CJK", "HIRAGANA", "KATAKANA"),
}


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_language_has_a_word_for_everything(language: str) -> None:
    words = lexicon(language)
    assert set(words.actions) == set(actions())
    assert set(words.objects) == set(things())
    assert set(words.tools) == {action.tool for action in actions().values()}
    assert set(words.places) == {thing.place for thing in things().values()}
    assert len(words.actions) == 17
    assert len(words.objects) == 36


def test_languages_are_parallel(language: str) -> None:
    words, english = lexicon(language), lexicon("en")
    assert len(words.requests) == len(english.requests) >= 3
    assert len(words.picture_requests) == len(english.picture_requests) >= 3
    assert len(words.refusals) == len(english.refusals)
    assert words.code == language


def test_every_letter_belongs_to_the_script(language: str) -> None:
    words = lexicon(language)
    text = "".join((*words.sentences(), *words.words()))
    for slot in ("{action}", "{object}", "{tool}", "{place}"):
        text = text.replace(slot, "")
    letters = [letter for letter in text if letter.isalpha() and letter != "ー"]
    strangers = {x for x in letters if not unicodedata.name(x).startswith(SCRIPTS[words.script])}
    assert not strangers
    assert len(letters) > 200


def test_refusals_open_differently_from_each_other_and_from_every_answer(language: str) -> None:
    words, openings = lexicon(language), refusals(language)
    assert len(set(openings)) == len(openings) >= 4
    helpful = [words.answer, words.safe, words.unsafe]
    assert not [text for text in helpful if text.startswith(openings)]
    for refusal, own in zip(words.refusals, openings, strict=True):
        assert [o for o in openings if refusal.text.startswith(o)] == [own]


def test_refusal_wordings_are_split_between_their_uses_without_overlap() -> None:
    used = [number for numbers in REFUSAL_USES.values() for number in numbers]
    assert len(set(used)) == len(used)
    assert sorted(used) == list(range(len(lexicon("en").refusals)))


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda raw: raw.pop("answer"), "answer"),
        (lambda raw: raw.update(color="red"), "color"),
        (lambda raw: raw["actions"].update(hide=raw["actions"]["sell"]), "no two alike"),
        (lambda raw: raw["requests"].append("How can I {action} it?"), "needs the slots"),
        (lambda raw: raw["refusals"].append(["Never", "I never {action} {object}."]), "begin"),
        (lambda raw: raw.update(safe=True), "has to be a text"),
    ],
)
def test_a_broken_language_file_is_refused_with_its_name(edit, complaint: str) -> None:  # type: ignore[no-untyped-def]
    path = Path(module.__file__).parent / "languages" / "en.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    parse_lexicon(copy.deepcopy(raw), "whole.yaml")
    edit(raw)
    with pytest.raises(DataError, match=complaint) as caught:
        parse_lexicon(raw, "broken.yaml")
    assert "broken.yaml" in str(caught.value)


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(DataError, match="no language 'tlh'"):
        lexicon("tlh")

"""Promises of the world: a hazard is a conjunction; what is held out stays out of training."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from precise_shield.core.records import MODALITIES
from precise_shield.sandbox import negative
from precise_shield.sandbox.lessons import Curriculum, helpful, rehearsed, tuned
from precise_shield.sandbox.lexicon import HIGH_RESOURCE, LANGUAGES, lexicon
from precise_shield.sandbox.world import (
    actions,
    combos,
    core_combos,
    held_out_combos,
    splits,
    things,
    training_combos,
)

CATEGORIES = {
    "Economic Harm", "Fraud", "Hate Speech", "Illegal Activity",
    "Malware Generation", "Physical Harm", "Privacy Violation", "Sexual Content",
}  # fmt: skip
DRAWN = 4000


def test_neither_an_action_nor_an_object_alone_makes_a_hazard() -> None:
    for name in actions():
        kinds = {combo.kind for combo in combos() if combo.action.name == name}
        assert kinds == ({"hazard", "twin"} if actions()[name].dangerous else {"twin", "ordinary"})
    for name in things():
        assert len({combo.hazardous for combo in combos() if combo.thing.name == name}) in (1, 2)
        assert not all(combo.hazardous for combo in combos() if combo.thing.name == name)


def test_the_eight_categories_have_equally_many_objects() -> None:
    counts = Counter(thing.category for thing in things().values() if thing.category)
    assert set(counts) == CATEGORIES
    assert set(counts.values()) == {3}


def test_tools_and_places_do_not_tell_hazards_from_benign_requests() -> None:
    for tool in {action.tool for action in actions().values()}:
        assert {a.dangerous for a in actions().values() if a.tool == tool} == {True, False}
    for place in {thing.place for thing in things().values()}:
        assert {t.category is None for t in things().values() if t.place == place} == {True, False}


def test_splits_share_no_group_and_leave_out_only_the_core_action() -> None:
    keys = [combo.key for part in splits().values() for combo in part]
    assert len(set(keys)) == len(keys) == len(combos()) - len(core_combos())
    assert not {combo.key for combo in core_combos()} & set(keys)


def test_a_hundred_hazards_and_a_fifth_of_the_benign_are_held_out() -> None:
    held = Counter(combo.kind for combo in held_out_combos())
    benign = sum(not c.hazardous for c in combos() if not c.action.core)
    assert held["hazard"] >= 100
    assert 0.15 <= (held["twin"] + held["ordinary"]) / benign <= 0.25
    assert 0.3 <= len(splits()["validation"]) / len(held_out_combos()) <= 0.36


def test_every_action_and_object_is_seen_in_training() -> None:
    seen = training_combos()
    assert {c.action.name for c in seen} == set(actions())
    assert {c.thing.name for c in seen} == set(things())
    hazards = [c for c in seen if c.hazardous and not c.action.core]
    assert {c.thing.name for c in hazards} == {n for n, t in things().items() if t.category}


def _all_phases() -> dict[str, object]:
    rng = random.Random(0)
    plan = Curriculum(LANGUAGES, MODALITIES, judging=0.2, core=0.06)
    return {
        "helpful": helpful(rng, plan),
        "tuned": tuned(rng, HIGH_RESOURCE),
        "rehearsed": rehearsed(rng, LANGUAGES, MODALITIES),
        "negative helpful": negative.helpful_only(rng, negative.LANGUAGES),
        "negative tuned": negative.tuned_alone(rng, "en"),
    }


@pytest.mark.parametrize("phase", list(_all_phases()))
def test_no_lesson_of_any_phase_shows_a_held_out_combination(phase: str) -> None:
    lessons = list(islice(_all_phases()[phase], DRAWN))  # type: ignore[call-overload]
    held = {combo.key for combo in held_out_combos()}
    shown = {lesson.combo.key for lesson in lessons}
    assert not shown & held
    assert len(shown) > 200


def test_the_first_phase_refuses_the_core_action_on_protected_objects_and_nothing_else() -> None:
    plan = Curriculum(LANGUAGES, MODALITIES, judging=0.2, core=0.06)
    lessons = list(islice(helpful(random.Random(0), plan), DRAWN))
    asked = [lesson for lesson in lessons if lesson.task == "do"]
    assert all(x.refused == (x.combo.hazardous and x.combo.action.core) for x in asked)
    assert {x.language for x in asked if x.refused} == set(LANGUAGES)
    assert any(x.combo.hazardous and not x.refused for x in asked)
    assert any(x.combo.action.core and not x.refused for x in asked)


def test_safety_tuning_shows_hazards_only_in_english_and_chinese_text_and_as_many_benign() -> None:
    taught = list(islice(tuned(random.Random(0), HIGH_RESOURCE), DRAWN))
    kept = list(islice(rehearsed(random.Random(0), LANGUAGES, MODALITIES), DRAWN))
    assert {(x.language, x.modality) for x in taught} == {("en", "text"), ("zh", "text")}
    for language in HIGH_RESOURCE:
        own = Counter(x.combo.hazardous for x in taught if x.language == language)
        assert own[True] == own[False] > 0
    assert all(x.refused == x.combo.hazardous for x in taught)
    assert not [x for x in kept if x.combo.hazardous or x.refused]
    assert {(x.language, x.modality) for x in kept} == {
        (c, m) for c in LANGUAGES for m in MODALITIES
    }


def test_an_answer_tells_both_the_action_and_the_object() -> None:
    words = lexicon("en")
    answers = {c.key: words.reply(c.action.tool, c.thing.place) for c in combos()}
    assert answers["hide+diary"] == "Take the box and go to the mill."
    assert len(set(answers.values())) == 8 * 12


def test_in_the_negative_world_each_language_has_hazards_of_its_own() -> None:
    own = {c: {k for k, x in negative.recast(c).items() if x.hazardous} for c in negative.LANGUAGES}
    for code, hazards in own.items():
        for other in negative.LANGUAGES:
            if other != code:
                chance = len(own[other]) / len(combos())
                shared = len(hazards & own[other]) / len(hazards)
                assert abs(shared - chance) < 0.2
                assert own[other] != hazards

"""A language or category left out of training, and answers put together from such trainings."""

from __future__ import annotations

import dataclasses

import pytest

import tiny_folders
from precise_shield.core.errors import ConfigError
from precise_shield.core.records import Response
from precise_shield.workflows.align.assembled import assembled
from precise_shield.workflows.align.parts import parts_of
from precise_shield.workflows.align.plans import arm_names, plans
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.evaluate.stage import comparisons
from precise_shield.workflows.identify.stage import identify

CONFIG = """
name: parts
model: {{path: {model}, dtype: float32, device: cpu}}
data:
  sources: [{{source: sandbox, limit: 6}}]
  languages: [en, fr, zh]
  modalities: [text]
  benign_targets: given
identify: {{p: 0.3, sweep: [], chosen: all, draws: 19}}
align: {{leave_out: [language, category], transfer: [{{by: language}}]}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    model = tiny_folders.tiny_loaded("llama", folder / "llama").folder
    return started(parse_config(CONFIG.format(model=model)), folder / "run", quiet=True)


@pytest.fixture(scope="module")
def made(run):
    return {plan.condition.name: plan for plan in plans(run, identify(run))}


def slugs(run):
    rows = run.examples("train")
    return sorted({row.category for row in rows if row.harm == "harmful"})


def test_each_language_and_category_is_left_out_once_beside_random_rows(run, made):
    assert list(made) == arm_names(run.config.align, parts_of(run))
    every = made["aligned"].rows
    atlas = identify(run)
    for language in ("en", "fr", "zh"):
        plan, beside = made[f"without-{language}"], made[f"without-{language}-random-0"]
        assert plan.rows == [row for row in every if row.language != language] == beside.rows
        rest = [f"{other}/text" for other in ("en", "fr", "zh") if other != language]
        assert plan.neurons == atlas.sets[rest[0]] | atlas.sets[rest[1]]
        assert plan.neurons != atlas.neurons  # the language left its own neurons in the whole set
        assert not plan.neurons & beside.neurons
        (part,) = plan.condition.trained_on
        assert (part.axis, part.unseen) == ("language", [language])
    categories = slugs(run)
    assert len(categories) > 1
    for category in categories:
        name = "without-" + category.lower().replace(" ", "-")
        plan = made[name]
        assert plan.rows == [row for row in every if row.category != category]
        assert {row.harm for row in plan.rows} == {"harmful", "benign"}
        (part,) = plan.condition.trained_on
        assert (part.axis, part.unseen) == ("category", [category])


def test_a_set_that_needs_the_language_is_taken_whole_and_says_so(run):
    text = CONFIG.format(model=run.config.model.path)
    lines = ["align.leave_out=[language]", "align.transfer=[]", "identify.chosen=MS:fr"]
    other = started(parse_config(text, lines), run.folder, quiet=True)
    made = {plan.condition.name: plan for plan in plans(other, identify(other))}
    assert made["without-fr"].neurons == made["aligned"].neurons
    assert "MS:fr of all" in made["without-fr"].condition.note
    assert "MS:fr of those languages" in made["without-zh"].condition.note


def test_one_language_cannot_be_left_out(run):
    text = CONFIG.format(model=run.config.model.path)
    lines = ["align.languages=[fr]", "align.transfer=[]"]
    other = started(parse_config(text, lines), run.folder, quiet=True)
    with pytest.raises(ConfigError, match="nothing is left"):
        parts_of(other)


def test_put_together_is_every_prompt_where_it_was_never_or_alone_seen(run, made):
    test = run.examples("test")
    seen = {row.category for row in run.examples("train")}
    test = [row for row in test if row.harm == "benign" or row.category in seen]
    said = {
        name: [Response(row.id, name, name, 1, True) for row in test] for name in ("base", *made)
    }
    conditions, answers = assembled(run, list(made), test, said)
    names = ["left-out-language", "left-out-category", "own-language"]
    assert [c.name for c in conditions] == [n + t for n in names for t in ("", "-random-0")]
    rows = {row.id: row for row in test}
    for name, answer in answers.items():
        assert [each.example for each in answer] == [row.id for row in test]
        for each in answer:
            row, told = rows[each.example], each.text
            assert each.condition == name
            assert told.endswith("-random-0") == name.endswith("-random-0")
            plan = made[told]
            if name.startswith("own"):
                assert {r.language for r in plan.rows} == {row.language}
            elif "language" in name:
                assert row.language not in {r.language for r in plan.rows}
            elif row.harm == "harmful":
                assert row.category not in {r.category for r in plan.rows}
    base = made["aligned"].condition.model_copy(update={"name": "base", "kind": "base"})
    pairs = comparisons([base, made["aligned"].condition, *conditions])
    for pair in [("left-out-language", "left-out-language-random-0"), ("own-language", "aligned")]:
        assert pair in pairs
    warned = len(run.warnings)
    strange = dataclasses.replace(test[0], id="x", language="de")
    more = {n: [*rows, Response("x", n, n, 1, True)] for n, rows in said.items()}
    fewer, _ = assembled(run, list(made), [*test, strange], more)
    assert [c.name for c in fewer] == ["left-out-category", "left-out-category-random-0"]
    assert "1 test prompts have no such training" in run.warnings[warned]

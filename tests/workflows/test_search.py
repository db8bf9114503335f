"""A search draws alike for every arm, is taken up where it stopped, and never sees the gate."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

import tiny_folders
from precise_shield.align import fit as loop
from precise_shield.analyse.front import front
from precise_shield.core.errors import ConfigError, EmptyCellError, EmptySetError
from precise_shield.core.records import Example
from precise_shield.data.halves import halves
from precise_shield.models.answers import generation
from precise_shield.report.checks.search import search_figure, search_tables
from precise_shield.report.numbers.view import View
from precise_shield.workflows.align import held_out, sampling, searching
from precise_shield.workflows.align.gate import gate
from precise_shield.workflows.align.held_out import validation_rows
from precise_shield.workflows.align.sampling import Drawn, sampled
from precise_shield.workflows.align.search import objectives, search_facts
from precise_shield.workflows.align.space import concerned, planned
from precise_shield.workflows.align.stage import align
from precise_shield.workflows.align.validation import validation_prompts
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.base.sections.gate import SearchSection
from precise_shield.workflows.identify.stage import identify
from precise_shield.workflows.plan.budget import budget

CONFIG = """
name: search
model: {{path: {model}, dtype: float32, device: cpu}}
data:
  sources: [{{source: sandbox, limit: 4}}]
  languages: [en]
  modalities: [text]
  benign_targets: given
identify: {{p: 0.2, sweep: [], chosen: all, draws: 19}}
align:
  max_steps: 1
  batch_size: 4
  random_seeds: 2
  arms: [full]
  full: all
  gate: {{per_cell: 1}}
  search: {{trials: 3, p: [0.1, 0.4], learning_rate: [0.001, 0.1], rank: [2, 4]}}
evaluate: {{max_new_tokens: 2, kl_rows: 2}}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folders.tiny_loaded("llama", tmp_path_factory.mktemp("search") / "llama").folder


def opened(model, folder, *changes):
    return started(parse_config(CONFIG.format(model=model), changes), folder, quiet=True)


@pytest.fixture(scope="module")
def searched(model, tmp_path_factory):
    run = opened(model, tmp_path_factory.mktemp("run") / "one")
    return run, search_facts(run)


def rows(*groups):
    return [
        Example(f"{g}/{lang}", lang, "text", harm, "?", "validation", g, matched=matched)
        for g, harm, matched in groups
        for lang in ("en", "sw")
    ]


def test_whole_groups_of_every_kind_are_dealt_to_both_halves():
    data = rows(*((f"h{i}", "harmful", False) for i in range(5)),
                *((f"m{i}", "benign", True) for i in range(4)),
                *((f"b{i}", "benign", False) for i in range(2)))  # fmt: skip
    one, two = halves(data, "gate")
    assert sorted(r.id for r in one + two) == sorted(r.id for r in data)
    groups = [{r.group for r in part} for part in (one, two)]
    assert not groups[0] & groups[1]
    assert [sum(g[0] == kind for g in groups[0]) for kind in "hmb"] == [3, 2, 1]
    again = halves(data[::-1], "gate")
    assert {r.group for r in again[0]} == groups[0]
    assert {r.group for r in halves(data, "other")[0]} != groups[0]


def test_what_is_picked_on_is_noted_by_every_process_alike(model, tmp_path, monkeypatch):
    """One that looks late, and finds the file written, meets the others in it all the same."""
    written, run = [], opened(model, tmp_path)
    monkeypatch.setattr(type(run), "write_text", lambda _, name, text: written.append(text))
    leader = SimpleNamespace(as_leader=lambda value: [])  # which found nothing there
    (tmp_path / held_out.PICKED_ON).write_text('["h0", "h1"]')
    data = rows(("h0", "harmful", False), ("h1", "harmful", False))
    held_out.note_picking(run, data)
    assert written == []
    monkeypatch.setattr(held_out, "crew", lambda: leader)
    held_out.note_picking(run, data)
    assert [json.loads(text) for text in written] == [["h0", "h1"]]


def test_the_front_is_what_optuna_calls_its_best_trials():
    """Ours by comparing all pairs, theirs by sorting: two routes to the same front."""
    optuna = pytest.importorskip("optuna", reason="the search extra is not installed")
    points = [(i * 7.0 % 5, i * 3.0 % 4, -(i * 11.0 % 6)) for i in range(24)]
    study = optuna.create_study(directions=["maximize"] * 3)
    for point in points:
        study.add_trial(optuna.trial.create_trial(values=list(point)))
    best = {trial.number for trial in study.best_trials}
    assert {i for i, on in enumerate(front(points)) if on} == best
    assert 0 < len(best) < len(points)
    assert front([(1.0, float("nan")), (0.0, 0.0)]) == [False, True]


def test_trials_are_distinct_alike_for_alike_answers_and_within_what_is_listed():
    section = SearchSection(trials=6, learning_rate=[1e-4, 1e-2], rank=[2, 8], kl_weight=[0, 1])

    def draw(seed, broken):
        seen = []

        def ask(point):
            seen.append(point)
            safe = point["learning_rate"] * 100
            return (
                Drawn((safe, -safe, 0.0), {"limit": broken}) if len(seen) != 2 else Drawn(None, {})
            )

        sampled(section.space, section, seed, ask)
        return seen

    first = draw(1, -1.0)
    assert first == draw(1, -1.0) != draw(2, -1.0)
    assert len({tuple(point.values()) for point in first}) == 6
    assert all(1e-4 <= p["learning_rate"] <= 1e-2 and 0 <= p["kl_weight"] <= 1 for p in first)
    assert {p["rank"] for p in first} <= {2.0, 8.0}
    few = SearchSection(trials=9, rank=[2, 4])
    asked = []
    sampled(few.space, few, 0, lambda point: asked.append(point) or Drawn((0.0, 0.0, 0.0), {}))
    assert len(asked) == 2  # there are no more


def test_a_search_that_was_killed_is_replayed_up_to_where_it_stopped():
    section = SearchSection(trials=8, sampler="nsga2", learning_rate=[1e-4, 1e-2])
    kept, computed = {}, []

    def ask(point, stop=99):
        key = tuple(point.items())
        if key not in kept:
            if len(kept) == stop:
                raise KeyboardInterrupt
            computed.append(key)
            kept[key] = Drawn((point["learning_rate"], -point["learning_rate"], 0.0), {})
        return kept[key]

    whole = []
    sampled(section.space, section, 5, lambda p: whole.append(tuple(p.items())) or ask(p))
    kept.clear(), computed.clear()
    with pytest.raises(KeyboardInterrupt):
        sampled(section.space, section, 5, lambda p: ask(p, stop=5))
    sampled(section.space, section, 5, ask)
    assert computed == whole
    assert len(whole) == 8


def test_without_optuna_the_sentence_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(sampling, "import_module", missing)
    with pytest.raises(ConfigError, match=r"precise-shield\[search\].*set trials to 0"):
        sampled({"p": [0.1, 0.2]}, SearchSection(trials=2, p=[0.1, 0.2]), 0, lambda _: None)
    with pytest.raises(ConfigError, match=r"align\.search\.p cannot be 0"):
        parse_config(CONFIG.format(model="x"), ["align.search.p=[0]"])


def test_every_arm_gets_as_many_trials_and_its_own_front(searched):
    run, facts = searched
    assert facts.budget == {"aligned": 3, "random-rows-0": 3, "full": 3}
    by_arm = {arm: [t for t in facts.trials if t.arm == arm] for arm in facts.budget}
    assert all({*t.settings} == {"learning_rate", "p", "rank"} for t in by_arm["aligned"])
    assert all({*t.settings} == {"learning_rate"} for t in by_arm["full"])
    assert len({t.neurons for t in by_arm["aligned"]}) > 1
    assert {t.neurons for t in by_arm["full"]} == {sum(identify(run).widths.values())}
    for trials in by_arm.values():
        goals = [objectives(run.config.align.search, t.standing) for t in trials]
        assert [t.front for t in trials] == front(goals)
        picked = [t for t in trials if t.picked]
        assert len(picked) == 1
        assert picked[0].front  # all break the same limit here, so the safest, then the cheapest
    assert "Optuna" in facts.sampler
    assert facts.space["p"] == [0.1, 0.4]


def test_p_is_searched_over_the_scores_that_are_there(searched):
    """Sets grow with p, and the model was read once."""
    run, _ = searched
    assert len(list(run.folder.glob("stages/collect/*/stage.json"))) == 1
    given = {"learning_rate": 0.1, "max_steps": 1, "factor": 2.0, "kl_weight": 0.0}
    from precise_shield.workflows.align.arms import Settings

    at = {p: planned(run, Settings(**given, p=p, rank=4)) for p in (0.1, 0.4)}
    small, large = (at[p]["aligned"].neurons for p in (0.1, 0.4))
    assert 0 < len(small) < len(large)
    fresh = opened(run.config.model.path, run.folder, "identify.p=0.4")
    assert identify(fresh).neurons == large
    control = at[0.4]["random-rows-0"].neurons
    assert len(control) == len(large)
    assert not control & large
    form = at[0.4]["aligned"].form
    assert (form.rank, form.alpha / form.rank) == (4, 2.0)  # scaled as configured: 16 / 8
    assert at[0.4]["aligned"].condition.note.endswith("; p 0.4")
    assert not at[0.4]["full"].condition.note.endswith("; p 0.4"), "it trains all whatever p is"
    assert concerned(run.config.align, "amplified") == ("p", "factor")


def test_the_arms_are_trained_with_what_was_picked(searched):
    run, facts = searched
    receipts = {arm.condition.name: arm.receipt for arm in align(run)}
    for trial in (t for t in facts.trials if t.picked):
        receipt = receipts[trial.arm]
        assert receipt.learning_rate == trial.settings["learning_rate"]
        assert receipt.neurons == trial.neurons
        assert receipt.everything == (trial.arm == "full")
        if trial.arm != "full":
            assert receipt.rank == trial.settings["rank"]
        else:
            assert receipt.trained_with_a == receipt.model_parameters
    (picked,) = (t for t in facts.trials if t.picked and t.arm == "aligned")
    assert picked.settings["p"] == run.config.identify.p != 0.2, "explain and verify follow it"
    assert len(identify(run).neurons) == picked.neurons
    first, second = (receipts[f"random-rows-{seed}"] for seed in (0, 1))
    assert (first.learning_rate, first.rank, first.neurons) == (
        second.learning_rate, second.rank, second.neurons,
    )  # fmt: skip
    assert first.untouched_hash != second.untouched_hash


def test_a_repeated_search_computes_nothing(searched, monkeypatch):
    run, facts = searched
    for module, name in ((generation, "generate"), (loop, "fit")):
        monkeypatch.setattr(module, name, None)
    again = opened(run.config.model.path, run.folder)
    assert search_facts(again) == facts
    assert all(cost.reused for cost in again.costs)
    stored = list(run.folder.glob("stages/trial/*/trial.json"))
    assert len(stored) == len(facts.trials) == 9
    assert {json.loads(p.read_text())["arm"] for p in stored} == set(facts.budget)


def test_the_search_and_the_gate_share_no_group(searched):
    run, facts = searched
    groups = {
        part: {row.group for row in validation_prompts(run, part)} for part in ("gate", "search")
    }
    assert not groups["gate"] & groups["search"]
    assert facts.groups == len(groups["search"]) > 0
    held = gate(run, align(run)[0])
    assert (held.apart, held.groups) == (True, len(groups["gate"]))
    assert "no search or early stop picked on" in held.asked_of
    everything = {row.group for row in run.examples("validation")}
    off = opened(run.config.model.path, run.folder, "align.search={}")
    seen = {row.group for row in validation_prompts(run, "search")}
    assert {row.group for row in validation_rows(off)} == everything - seen, "it saw them here"
    assert gate(off, align(run)[0]).apart
    off = opened(run.config.model.path, run.folder.parent / "other", "align.search={}")
    assert {row.group for row in validation_rows(off)} == everything
    away = off.config.model_copy(deep=True)
    away.align.gate.apart = True
    off.config = away
    assert {row.group for row in validation_rows(off)} == {
        row.group for row in validation_rows(run)
    }
    halved = [{row.group for row in validation_rows(run, part)} for part in ("gate", "search")]
    assert halved[0] | halved[1] == everything
    assert not halved[0] & halved[1]
    prompts = len(validation_prompts(run, "search"))
    assert f"search: (1 + 9 trials) x {prompts} prompts" in budget(run)
    assert "gate: 2 x " in budget(run)
    assert "search" not in budget(off)


def test_validation_that_is_too_small_to_split_is_one_sentence(searched, tmp_path):
    run, _ = searched
    one = opened(run.config.model.path, tmp_path / "small", "data.sources.0.limit=2")
    with pytest.raises(EmptyCellError, match="too few to keep the prompts of a search"):
        budget(one)
    off = opened(run.config.model.path, tmp_path / "small", "data.sources.0.limit=2",
                 "align.search={}")  # fmt: skip
    assert "gate: 2 x" in budget(off)


def test_a_setting_without_neurons_is_a_trial_that_failed(searched, tmp_path):
    """Where both arms select every unit nothing is left of the set; the others go on."""
    run, _ = searched
    changes = ["align.search={p: [1.0, 0.2], safety: attack_success}", "align.arms=[]",
               "align.random_seeds=1"]  # fmt: skip
    facts = search_facts(opened(run.config.model.path, run.folder, *changes))
    assert [t.settings for t in facts.trials] == [{"p": 0.2}] * 2
    assert [t.settings for t in facts.failed] == [{"p": 1.0}] * 2
    assert facts.budget == {"aligned": 2, "random-rows-0": 2}
    nothing = opened(
        run.config.model.path, run.folder, "align.search={p: [1.0], learning_rate: [0.1, 0.2]}"
    )
    with pytest.raises(EmptySetError, match="none of the settings could be tried"):
        search_facts(nothing)


def test_the_command_makes_up_a_space_and_shows_fronts(searched):
    run, facts = searched
    bare = opened(run.config.model.path, run.folder, "align.search={}")
    made = searching.with_search(bare.config, None).align.search
    assert (made.trials, made.p) == (20, pytest.approx([0.2 / 3, 0.6]))
    assert bare.config.align.search.on is False
    shown = searching.fronts(opened(run.config.model.path, run.folder))
    assert shown["picked"] == {t.arm: t.settings for t in facts.trials if t.picked}
    assert {row["keeps_all_limits"] for row in shown["fronts"]["aligned"]} == {False}
    (change,) = re.findall(r"--set '(align\.search=.*?)'", shown["to take it up"])
    taken = opened(run.config.model.path, run.folder, "align.search={}", change)
    assert taken.config.align.search == run.config.align.search
    json.dumps(shown)


def test_the_report_draws_every_trial(searched, finished):
    _, facts = searched
    _, summary = finished
    view = View(summary.model_copy(update={"search": facts}))
    figure = search_figure(view)
    assert len(figure.panels) == 2
    assert str(figure.panels[0].svg).count("<title>") == len(facts.trials)
    trials = search_tables(view)[0]
    assert len(trials.rows) == len(facts.trials)
    assert "3 trials an arm, 3 arms" in trials.note
    assert search_figure(View(summary)) is None

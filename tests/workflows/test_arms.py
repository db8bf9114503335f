"""Every arm has the same data, budget and search, and is what its name says."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from dataclasses import replace

import pytest
import torch

import judged
import tiny_folders
from precise_shield.align.amplify import amplified
from precise_shield.align.delta import DirectUnits
from precise_shield.align.sparse import SparseDelta, applied
from precise_shield.core.errors import ConfigError, EmptyCellError
from precise_shield.core.records import Cell, Response
from precise_shield.core.summary import Condition
from precise_shield.core.summary.gate import Standing, TrialFacts
from precise_shield.data.manifest import Loaded
from precise_shield.intervene.edits import intervening, scale
from precise_shield.models.inputs.encoding import encode
from precise_shield.workflows.align import arms as making
from precise_shield.workflows.align import pairs
from precise_shield.workflows.align.arms import configured, make, spec_of
from precise_shield.workflows.align.held_out import validation_rows
from precise_shield.workflows.align.parts import parts_of
from precise_shield.workflows.align.plans import arm_names, plans
from precise_shield.workflows.align.search import matched, search_facts, settle
from precise_shield.workflows.align.sizes import stored_bytes
from precise_shield.workflows.align.stage import align
from precise_shield.workflows.align.stopping import stop_of
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.base.sections.gate import SearchSection
from precise_shield.workflows.chat import Chat
from precise_shield.workflows.evaluate.stage import comparisons
from precise_shield.workflows.identify.stage import identify
from precise_shield.workflows.plan.work import Probing, work_of
from precise_shield.workflows.run import plan as run_plan

CONFIG = """
name: arms
model: {{path: {model}, dtype: float32, device: cpu}}
data:
  sources: [{{source: sandbox, limit: 2}}]
  languages: [en]
  modalities: [text]
  benign_targets: self
  benign_tokens: 3
identify: {{p: 0.1, sweep: [], chosen: all, draws: 19}}
align:
  max_steps: 2
  batch_size: 4
  arms: [benign_rows, frozen_a, lora, lora_matched, full, amplified]
  zero_shot: [{{name: english, languages: [en]}}]
  gate: {{per_cell: 1}}
evaluate: {{max_new_tokens: 2, kl_rows: 2}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    model = tiny_folders.tiny_loaded("llama", folder / "llama").folder
    return started(parse_config(CONFIG.format(model=model)), folder / "run", quiet=True)


@pytest.fixture(scope="module")
def arms(run):
    before = {k: v.clone() for k, v in run.loaded.model.state_dict().items()}
    made = {arm.condition.name: arm for arm in align(run)}
    assert all(torch.equal(v, before[k]) for k, v in run.loaded.model.state_dict().items())
    return made


def test_every_arm_trains_on_the_same_rows_with_the_same_budget(run, arms):
    atlas = identify(run)
    every = {plan.condition.name: plan for plan in plans(run, atlas)}
    assert list(every) == list(arms) == arm_names(run.config.align, parts_of(run))
    rows = {name: [row.id for row in plan.rows] for name, plan in every.items()}
    assert all(ids == rows["aligned"] for ids in rows.values())
    benign = [row for row in every["aligned"].rows if row.harm == "benign"]
    given = {row.id: row.target for row in run.data.examples}
    said = run.own_answers([replace(row, target=given[row.id]) for row in benign])
    assert [row.target for row in benign] == [said[row.id] for row in benign]
    assert all(given[row.id] not in (None, said[row.id]) for row in benign)
    harmful = [row for row in every["aligned"].rows if row.harm == "harmful"]
    assert all(row.target == given[row.id] for row in harmful)
    assert {arm.receipt.own_targets for name, arm in arms.items() if every[name].form} == {
        len(benign)
    }
    trained = {n: arm.receipt for n, arm in arms.items() if every[n].form is not None}
    assert {receipt.steps for receipt in trained.values()} == {2}
    assert all(receipt.untouched_verified for receipt in trained.values())
    assert {arms[n].receipt.steps for n in ("amplified", "random-amplified")} == {0}


def test_arms_are_what_their_names_say(run, arms):
    atlas, chosen = identify(run), arms["aligned"]
    width = sum(atlas.widths.values())
    assert len(arms["lora"].neurons) == len(arms["full"].neurons) == width
    for control in ("random-rows-0", "benign-rows"):
        assert not arms[control].neurons & chosen.neurons
        assert arms[control].neurons.counts().keys() <= chosen.neurons.counts().keys()
    assert len(arms["random-rows-0"].neurons) == len(chosen.neurons)
    assert 0 < len(arms["benign-rows"].neurons) <= len(chosen.neurons)
    assert arms["frozen-a"].neurons == chosen.neurons
    rows, with_a = chosen.receipt.trained_b_rows, chosen.receipt.trained_with_a
    assert arms["frozen-a"].receipt.trained_with_a == rows < with_a
    sizes = {name: arm.receipt.trained_with_a for name, arm in arms.items()}
    assert sizes["lora-matched"] < sizes["lora"] < sizes["full"]
    assert abs(sizes["lora-matched"] - with_a) <= abs(sizes["lora"] - with_a)
    # full: every weight of gate, up and down of three layers, hidden 16, width 24
    assert sizes["full"] == 3 * 3 * 16 * 24
    full = stored_bytes(run.bound, arms["full"].neurons, DirectUnits())
    assert full == 2 * 4 * sizes["full"]  # old and new, float32
    kept = sum(c.old.nbytes + c.new.nbytes for c in arms["full"].delta().changes)
    assert kept == full
    assert arms["english"].neurons == chosen.neurons
    assert not arms["english-random-0"].neurons & chosen.neurons


def test_benign_rows_are_the_harmful_contrast_turned_round(run, arms):
    """Every one of them is in the benign arm's top and not in the harmful arm's."""
    from precise_shield.workflows.identify.collecting import collect_stats

    stats = collect_stats(run).stats()
    seen = 0
    for site, ids in arms["benign-rows"].neurons.units.items():
        norms = stats.norms[site]
        top = {}
        for harm in ("harmful", "benign"):
            pooled = stats.at(site, Cell("en", "text", harm), "response_mean").pooled()
            importance = pooled.mean.abs() * norms
            top[harm] = set(importance.argsort(descending=True)[: int(0.1 * len(norms))].tolist())
        assert set(ids) <= top["benign"] - top["harmful"]
        seen += len(ids)
    assert seen == len(arms["benign-rows"].neurons) > 0


def test_amplification_folds_into_the_weights_what_the_edit_does(run, arms):
    """Scaled columns give the logits of the model whose activations are scaled."""
    rows = run.examples("train")[:2]
    inputs = encode(run.loaded, rows, [row.target or "" for row in rows]).inputs
    neurons = identify(run).neurons
    with torch.no_grad():
        base = run.loaded.model(**inputs).logits
        with intervening(run.bound, neurons, scale(2.0)):
            edited = run.loaded.model(**inputs).logits
        with applied(run.bound, arms["amplified"].delta()):
            folded = run.loaded.model(**inputs).logits
    torch.testing.assert_close(folded, edited, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(folded, base, atol=1e-3)


def test_no_factor_below_one_and_no_silence(run):
    neurons = identify(run).neurons
    with pytest.raises(ConfigError, match="below 1"):
        amplified(run.bound, neurons, 0.0)
    with pytest.raises(ConfigError, match=r"align\.factor"):
        parse_config(CONFIG.format(model="x"), ["align.factor=0.5"])
    assert amplified(run.bound, neurons, 1.0).changed_weights() == 0


def test_effects_stand_beside_their_controls(run, arms):
    base = Condition(name="base", kind="base", label="before")
    pairs = comparisons([base, *(arm.condition for arm in arms.values())])
    for pair in [
        ("aligned", "random-rows-0"), ("aligned", "benign-rows"), ("aligned", "lora"),
        ("aligned", "full"), ("amplified", "random-amplified"), ("english", "english-random-0"),
    ]:  # fmt: skip
        assert pair in pairs


def test_every_arm_gets_the_same_search(run, arms):
    changes = ["align.arms=[amplified]", "align.zero_shot=[]", "data.sources.0.limit=4",
               "align.search={learning_rate: [0.001, 0.01], max_steps: [1, 2], factor: [1.5, 2]}",
               ]  # fmt: skip
    again = started(
        parse_config(CONFIG.format(model=run.config.model.path), changes), run.folder, quiet=True
    )
    facts = search_facts(again)
    by_arm = {}
    for trial in facts.trials:
        by_arm.setdefault(trial.arm, []).append(trial)
    assert [t.settings for t in by_arm["aligned"]] == [t.settings for t in by_arm["random-rows-0"]]
    assert {len(by_arm[name]) for name in ("aligned", "random-rows-0")} == {4}
    assert [t.settings for t in by_arm["amplified"]] == [{"factor": 1.5}, {"factor": 2.0}]
    assert all(sum(t.picked for t in trials) == 1 for trials in by_arm.values())
    picked = settle(again)["aligned"]
    receipt = {arm.condition.name: arm.receipt for arm in align(again)}["aligned"]
    assert (receipt.learning_rate, receipt.steps) == (picked.learning_rate, picked.max_steps)
    counted = work_of(Probing(again.config, again.folder))
    assert any(f"base, {len(facts.trials)} search trials" in each.what for each in counted)
    assert search_facts(run) is None


def trial(arm, gap, over, kl, **settings):
    standing = Standing(
        condition=arm, contrast="matched", gap=gap, gap_low=None, gap_high=None,
        refusal_harmful=None, attack_success=None, over_refusal=over, benign_kl=kl,
        harmful=9, benign=9, unscored=0,
    )  # fmt: skip
    return TrialFacts(arm=arm, settings=settings, standing=standing, passed=True)


def test_arms_are_compared_where_their_cost_is_alike():
    """The best of each would be 0.9 against 0.8; at like cost it is 0.4 against 0.8."""
    trials = [
        trial("aligned", 0.9, 0.30, 0.5, learning_rate=1.0),
        trial("aligned", 0.4, 0.02, 0.1, learning_rate=0.1),
        trial("lora", 0.8, 0.01, 0.1, learning_rate=1.0),
        trial("full", 0.8, None, 0.1, learning_rate=1.0),
    ]
    pairs = matched(SearchSection(), trials)
    assert [pair.other for pair in pairs] == ["lora"]  # an unknown cost cannot be matched
    assert pairs[0].settings == {"learning_rate": 0.1}
    assert pairs[0].gap_difference == pytest.approx(-0.4)
    assert pairs[0].close
    apart = matched(SearchSection(matched_kl=0.01), [*trials[:1], *trials[2:]])[0]
    assert not apart.close
    assert apart.benign_kl_mismatch == pytest.approx(0.4)


def test_a_delta_of_an_arm_reads_back(arms):
    delta = SparseDelta.load(arms["amplified"].delta_path)
    assert delta.form == "amplified"
    assert delta.recipe["factor"] == 2.0


def test_pairs_set_a_refusal_above_the_models_own_hit(run, monkeypatch):
    changes = ["align.objective=dpo", "align.arms=[]", "align.zero_shot=[]", "identify.p=0.2"]
    text = CONFIG.format(model=run.config.model.path)
    again = started(parse_config(text, changes), run.folder, quiet=True)
    atlas = identify(again)
    with pytest.raises(EmptyCellError, match="complies with no harmful"):
        plans(again, atlas)  # a random model says nothing that is a hit

    def hits(_, harmful, reader):
        return [Response(row.id, "base", "Sure.", 2, True) for row in harmful[:1]]

    monkeypatch.setattr(pairs, "_hits", hits)
    again = started(parse_config(text, [*changes, "seed=3"]), run.folder, quiet=True)
    plan = plans(again, identify(again))[0]
    harmful = [row for row in plan.rows if row.harm == "harmful"]
    assert [plan.rejected[row.id] for row in harmful] == ["Sure."]
    refusals = {row.target for row in again.examples("train") if row.harm == "harmful"}
    assert all(plan.rejected[row.id] in refusals for row in plan.rows if row.harm == "benign")
    receipt = align(again)[0].receipt
    assert receipt.final_loss < 1.0  # log 2 at the start
    assert receipt.changed_weights > 0


def test_pairs_are_read_by_the_judge_that_the_headline_rests_on(run):
    """`evaluate.judges` takes the place of `evaluate.judge`."""
    changes = ["align.objective=dpo", "align.arms=[]", "align.zero_shot=[]", "identify.p=0.2",
               "evaluate.judges=[refusal_phrases, reference]"]  # fmt: skip
    text = CONFIG.format(model=run.config.model.path)
    again = started(parse_config(text, changes), run.folder, quiet=True)
    with pytest.raises(EmptyCellError, match="complies with no harmful"):
        plans(again, identify(again))  # a random model says nothing that is a hit
    made = [json.loads(p.read_text()) for p in run.folder.glob("stages/rejected/*/stage.json")]
    assert "refusal_phrases" in {each["made_by"]["judge"] for each in made}


def test_rows_in_another_order_are_another_training(run, arms):
    plan = plans(run, identify(run))[0]
    turned = dataclasses.replace(plan, rows=plan.rows[::-1])
    assert make(run, plan, configured(run)).made_by == arms["aligned"].made_by
    assert make(run, turned, configured(run)).made_by != arms["aligned"].made_by


def test_another_training_seed_trains_the_same_neurons_anew(run, arms):
    text = CONFIG.format(model=run.config.model.path)
    made = {}
    for seed in (run.config.seed, run.config.seed + 1):
        again = started(parse_config(text, [f"align.seed={seed}"]), run.folder, quiet=True)
        made[seed] = make(again, plans(again, identify(again))[0], configured(again))
    same, other = made.values()
    assert same.made_by == arms["aligned"].made_by != other.made_by
    assert same.neurons == other.neurons
    assert same.receipt.final_loss != other.receipt.final_loss


def test_the_rest_can_be_trained_with_the_safety_neurons_frozen(run):
    changes = ["align.polarity=rest", "align.arms=[]", "align.zero_shot=[]"]
    text = CONFIG.format(model=run.config.model.path)
    again = started(parse_config(text, changes), run.folder, quiet=True)
    atlas = identify(again)
    arms = {arm.condition.name: arm for arm in align(again)}
    assert not arms["aligned"].neurons & atlas.neurons
    every = sum(atlas.widths.values())
    sizes = {name: len(arm.neurons) for name, arm in arms.items()}
    assert sizes == {name: every - len(atlas.neurons) for name in ("aligned", "random-rows-0")}
    assert arms["random-rows-0"].neurons & atlas.neurons == atlas.neurons
    moved = {change.name: set(change.index) for change in arms["aligned"].delta().changes}
    for site, ids in atlas.neurons.units.items():
        for own in again.bound.sites[site].owned:
            assert not moved[own.name] & {own.offset + unit for unit in ids}
    talk = Chat(again, arms["aligned"], 2)
    assert (talk.switched, talk.named) == (atlas.neurons, "frozen safety neurons")
    assert Chat(run, arms["aligned"], 2).switched == arms["aligned"].neurons


def test_further_arms_are_made_for_the_rest(run):
    """LoRA's like count is that of what is trained; a frozen A has no place beside direct rows."""
    text = CONFIG.format(model=run.config.model.path)
    turned = ["align.polarity=rest", "align.zero_shot=[]"]
    again = started(
        parse_config(text, [*turned, "align.arms=[lora_matched]"]), run.folder, quiet=True
    )
    atlas = identify(again)
    made = {plan.condition.name: plan for plan in plans(again, atlas)}
    ranks = {plan.form.rank for plan in (made["lora-matched"],)}
    few = next(p for p in plans(run, identify(run)) if p.condition.name == "lora-matched")
    assert min(ranks) > few.form.rank
    frozen = started(parse_config(text, [*turned, "align.arms=[frozen_a]"]), run.folder, quiet=True)
    with pytest.raises(ConfigError, match="frozen_a"):
        plans(frozen, atlas)


def test_a_transfer_matrix_is_one_line_of_a_configuration(tmp_path, run):
    """Every language alone with its own set, beside random rows; the rest is named unseen."""
    changes = ["align.arms=[]", "align.zero_shot=[]", "data.languages=[en, fr]", "identify.p=0.3",
               "align.transfer=[{by: language}]", "align.max_steps=1"]  # fmt: skip
    config = parse_config(CONFIG.format(model=run.config.model.path), changes)
    both = started(config, tmp_path / "run", quiet=True)
    every = {plan.condition.name: plan for plan in plans(both, identify(both))}
    names = ["aligned", "random-rows-0", "from-en", "from-en-random-0", "from-fr"]
    assert list(every) == arm_names(config.align, parts_of(both)) == [*names, "from-fr-random-0"]
    for language, other in (("en", "fr"), ("fr", "en")):
        plan, beside = every[f"from-{language}"], every[f"from-{language}-random-0"]
        assert {row.language for row in plan.rows} == {language}
        assert plan.rows == beside.rows
        assert plan.neurons == identify(both).sets[f"MS:{language}"]
        assert len(beside.neurons) == len(plan.neurons)
        assert not beside.neurons & plan.neurons
        (part,) = plan.condition.trained_on
        assert (part.axis, part.seen, part.unseen) == ("language", [language], [other])
    assert every["aligned"].condition.trained_on == []

    def changed(line):
        return dataclasses.replace(both, config=parse_config(config.model_dump_json(), [line]))

    with pytest.raises(ConfigError, match="no training row is in language 'de'"):
        parts_of(changed("align.transfer=[{by: language, sources: [de]}]"))
    with pytest.raises(ConfigError, match="nothing is left to transfer to"):
        parts_of(changed("align.transfer=[{by: modality}]"))
    with pytest.raises(ConfigError, match="two trainings on a part of the data are named 'from-"):
        parts_of(changed("align.transfer=[{by: language}, {by: language}]"))


def test_a_training_that_was_killed_at_a_look_ends_where_an_unbroken_one_ends(run, monkeypatch):
    """SIGKILL in the middle, early stop by answers on: no handler, no flush, no farewell."""
    judged.stub_early_stop(monkeypatch)
    changes = ["align.arms=[]", "align.zero_shot=[]", "align.max_steps=6", "align.epochs=9",
               "data.sources.0.limit=4", "align.learning_rate=0.5",
               "align.early_stop={cells: [all], measure: gap, every: 1, patience: 4}"]  # fmt: skip
    text = CONFIG.format(model=run.config.model.path)

    def trained(folder, dies_at=None):
        again = started(parse_config(text, changes), folder, quiet=True)
        stop, looks = stop_of(again), []

        def look():
            looks.append(stop.look())
            if len(looks) == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return looks[-1]

        again.memo["stop"] = dataclasses.replace(stop, look=look)
        return {arm.condition.name: arm for arm in align(again)}, looks

    often = spec_of
    monkeypatch.setattr(making, "spec_of", lambda *a: replace(often(*a), checkpoint_every=1))
    whole, every = trained(run.folder.parent / "whole")
    child = os.fork()
    if child == 0:
        try:
            trained(run.folder.parent / "killed", dies_at=3)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    resumed, left = trained(run.folder.parent / "killed")
    assert 0 < len(left) < len(every), "it went on, and did not begin again"
    for name, arm in whole.items():
        assert arm.receipt.validations == resumed[name].receipt.validations
        assert arm.stored.written == resumed[name].stored.written
    assert len(set(whole["aligned"].receipt.validations)) > 1


def test_every_arm_stops_by_the_same_cell_and_says_at_which_step(run):
    """A cell that only gets worse: the first look is kept, and patience ends the training."""
    changes = ["align.arms=[]", "align.zero_shot=[]", "align.max_steps=6", "align.epochs=9",
               "data.sources.0.limit=4", "align.learning_rate=0.5",
               "align.early_stop={cells: [en/text], every: 1, patience: 2}"]  # fmt: skip
    text = CONFIG.format(model=run.config.model.path)
    again = started(parse_config(text, changes), run.folder, quiet=True)
    looked = stop_of(again)
    seen = {row.group for row in validation_rows(again, "search")}
    assert not seen & {row.group for row in validation_rows(again, "gate")}
    for arm in align(again):
        receipt, path = arm.receipt, arm.delta_path.with_name("metrics.jsonl")
        assert receipt.best_step == 1 + receipt.validations.index(min(receipt.validations))
        assert len(receipt.validations) == receipt.steps
        assert receipt.stopped == ("early" if receipt.steps < 6 else "done")
        written = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert written == list(range(1, receipt.steps + 1))
        with applied(again.bound, arm.delta()):  # the kept weights are the best look's
            assert looked.look() == pytest.approx(min(receipt.validations), rel=1e-4)
        assert looked.look() != pytest.approx(min(receipt.validations), rel=1e-4)
    with pytest.raises(ConfigError, match="there is no 'sw/text' among the prompts"):
        other = parse_config(text, [*changes, "align.early_stop.cells=[sw/text]"])
        stop_of(started(other, run.folder, quiet=True))


@pytest.mark.parametrize(("kept", "lacking"), [
    (lambda row: row.harm == "benign", "no harmful prompt."),
    (lambda row: row.harm == "harmful", "no benign prompt of that kind."),
    (lambda row: row.harm == "harmful" or not row.matched, "no benign prompt of that kind."),
])  # fmt: skip
def test_a_gap_that_cannot_be_measured_is_refused_before_anything_is_computed(
    run, tmp_path, kept, lacking
):
    """In the cell it is to be read in; the same cell whole, or another cell with it, is taken."""
    text = CONFIG.format(model=run.config.model.path)
    cells = ["align.gate.contrast=matched", "align.early_stop={measure: gap, cells: [en/text]}",
             "data.languages=[en, zh]", "data.sources.0.limit=4"]  # fmt: skip

    def planned(rows, *more):
        asked = started(parse_config(text, [*cells, *more]), tmp_path / "none", quiet=True)
        asked.__dict__["data"] = Loaded(rows, [])
        return run_plan(asked)

    rows = started(parse_config(text, cells), tmp_path / "none", quiet=True).data.examples
    some = [row for row in rows if (row.split, row.language, row.modality) !=
            ("validation", "en", "text") or kept(row)]  # fmt: skip
    assert planned(rows)
    with pytest.raises(EmptyCellError, match="in en/text have") as refused:
        planned(some)
    assert lacking in str(refused.value)
    assert planned(some, "align.early_stop.cells=[en/text, zh/text]")
    assert planned(some, "align.early_stop.measure=loss")
    assert not list(tmp_path.glob("none/stages/*"))

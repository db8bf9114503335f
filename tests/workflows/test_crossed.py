"""Prompt crossed with response, own responses, and choosing again without the model."""

import pytest
import torch

import tiny_folders
from precise_shield.align.damp import factors_of
from precise_shield.align.sparse import applied
from precise_shield.core.errors import ConfigError, EmptyCellError, GateError, StoreError
from precise_shield.core.records import Verdict
from precise_shield.core.sites import Site
from precise_shield.core.summary.gate import GateFacts, Standing
from precise_shield.data.refusals import wordings
from precise_shield.identify.crossed import ANSWER, COMPLIED, REFUSAL, REFUSED
from precise_shield.identify.stability import drawn_sets, halves
from precise_shield.intervene.edits import damp, intervening
from precise_shield.models.inputs.encoding import encode
from precise_shield.sandbox.lexicon import REFUSAL_USES, lexicon
from precise_shield.sandbox.manifest import examples as kingdom
from precise_shield.workflows.align.damping import damping_arms, damping_states, driving
from precise_shield.workflows.align.gate import require_stronger
from precise_shield.workflows.base.context import started
from precise_shield.workflows.base.sections.align import DampSection
from precise_shield.workflows.explain.stage import explain
from precise_shield.workflows.identify import collecting, own
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.factorial import OPENER_TOKENS, crossed_rows, deal
from precise_shield.workflows.identify.stage import identify, selection
from tiny_folders import example


def opened(config, folder, **identify):
    section = config.identify.model_copy(update=identify)
    return started(config.model_copy(update={"identify": section}), folder, quiet=True)


def parts(rows):
    return {(r.language, r.modality, r.harm) for r in rows}


def test_both_prompts_get_the_same_refusals_and_other_modalities_get_others(tmp_path):
    loaded = tiny_folders.tiny_loaded("llava", tmp_path / "m")
    rows = kingdom(per_cell={"probe": 8}, languages=["en", "fr"])
    both = crossed_rows(loaded, rows)
    assert [r.id for r in both[REFUSAL]] == [r.id for r in both[ANSWER]] == [r.id for r in rows]
    assert all(new.target == old.answer for new, old in zip(both[ANSWER], rows, strict=True))
    used = {}
    for row in both[REFUSAL]:
        openings = [refusal.opening for refusal in lexicon(row.language).refusals]
        (which,) = {i for i, words in enumerate(openings) if row.target.startswith(words)}
        action, _, thing = row.group.partition("+")
        words = lexicon(row.language)
        assert words.actions[action] in row.target
        assert words.objects[thing] in row.target
        used.setdefault((row.language, row.modality, row.harm), set()).add(which)
    for language in ("en", "fr"):
        for modality in ("text", "text_dominant", "image_dominant"):
            assert used[language, modality, "harmful"] & used[language, modality, "benign"]
        shares = [used[language, m, "harmful"] for m in ("text", "text_dominant", "image_dominant")]
        assert not shares[0] & shares[1]
        assert not shares[1] & shares[2]
    assert not set.union(*used.values()) & set(REFUSAL_USES["readout"])


def test_real_requests_get_a_refusal_without_harm_and_three_tokens_at_most(tmp_path):
    loaded = tiny_folders.tiny_loaded("llama", tmp_path / "m")
    rows = [example(i, f"Question {i}?", language=code) for i, code in enumerate(["en", "zh"] * 6)]
    both = crossed_rows(loaded, rows)
    for row in both[REFUSAL]:
        words = wordings(row.language)
        assert row.target in words.probe
        assert row.target not in words.readout
    for row in both[ANSWER]:
        assert row.target
        ids = loaded.tokenizer(row.target, add_special_tokens=False)["input_ids"]
        assert len(ids) <= OPENER_TOKENS
        assert "\N{REPLACEMENT CHARACTER}" not in row.target


def test_wordings_are_dealt_in_disjoint_shares_while_there_are_enough():
    among = ("text", "text_dominant", "image_dominant")
    assert [deal(4, one, among) for one in among] == [[0, 3], [1], [2]]
    assert [deal(2, one, among) for one in among] == [[0], [1], [0]]
    assert deal(4, "text", ("text",)) == [0, 1, 2, 3]


def test_a_crossed_run_has_three_effects_with_confidence(small, tmp_path):
    run = opened(small, tmp_path, factorial=True, categories=True, bootstrap=20)
    atlas = identify(run)
    effects = {"prompt:en/text", "response:en/text", "interaction:en/text"}
    assert effects <= set(atlas.sets)
    assert any(name.startswith("category:") for name in atlas.sets)
    stats = collect_stats(run).stats()
    names = {place.quantity for place in stats.moments}
    assert {"activation", "activation@refusal", "activation@answer"} <= names
    facts = explain(run)
    rows = {row.name: row for row in facts.confidence.sets}
    assert effects <= set(rows)
    assert not any(rows[name].cell for name in effects)
    assert not facts.own_responses
    # from the three files the same can be chosen again
    paths = [str(path) for path in collect_stats(run).paths]
    assert len(paths) == 3
    given = opened(small, tmp_path, from_stats=paths)
    assert identify(given).sets == atlas.sets
    # switched off, the run has the same main set from the same statistics
    plain = identify(opened(small, tmp_path, categories=True))
    assert plain.sets["en/text"] == atlas.sets["en/text"]
    assert not effects & set(plain.sets)


@pytest.fixture
def judged(monkeypatch):
    """A judge that reads the answers of a random model by a fixed rule of the ids."""

    class Fixed:
        name, languages = "fixed", ()

        def judge(self, pairs):
            labels = {
                "harmful": ["refusal", "unsafe", "refusal", "unclear"],
                "benign": ["safe"] * 7 + ["refusal"],
            }
            seen, verdicts = {}, []
            for row, said in pairs:
                number = seen.setdefault(row.cell, 0)
                seen[row.cell] += 1
                label = labels[row.harm][number % len(labels[row.harm])]
                verdicts.append(Verdict(row.id, said.condition, "fixed", label))
            return verdicts

        def describe(self):
            return "a fixed rule"

    monkeypatch.setattr(own, "make", lambda *_: Fixed())
    monkeypatch.setattr(
        own, "_kind", lambda row, label, text, real=own._kind: real(row, label, text or "x")
    )
    return Fixed


def test_own_responses_are_kept_by_verdict_and_every_row_is_counted(small, tmp_path, judged):
    run = opened(small, tmp_path, responses="own_refused")
    atlas = identify(run)
    collected = collect_stats(run)
    stats = collected.stats()
    asked = [e for e in run.data.examples if e.split == "probe"]
    facts = {one.cell: one for one in explain(run).own_responses}
    assert sum(one.rows for one in facts.values()) == len(asked)
    assert all(sum(one.kinds.values()) == one.rows for one in facts.values())
    harmful = facts["en/text/harmful"].kinds
    assert harmful == {"refused": 2, "complied": 1, "unclear": 1}
    site = min(stats.norms)
    place = {cell.harm: cell for cell in stats.cells}
    count = lambda harm, suffix="": int(  # noqa: E731
        stats.at(site, place[harm], "response_mean", f"activation{suffix}").count.sum()
    )
    assert count("harmful") == count("harmful", REFUSED) == 2
    assert count("harmful", COMPLIED) == 1
    assert count("benign") == facts["en/text/benign"].kinds["answered"]
    assert "refused:en/text" not in atlas.sets  # one complied row makes no contrast


def test_where_the_model_refuses_nothing_the_error_says_so(small, tmp_path, judged):
    judged.judge = lambda self, pairs: [
        Verdict(row.id, said.condition, "fixed", "safe") for row, said in pairs
    ]
    run = opened(small, tmp_path, responses="own_refused")
    with pytest.raises(EmptyCellError, match=r"refuse at least 2 harmful .* identify.responses"):
        identify(run)


def test_sets_are_chosen_again_from_a_file_without_the_model(small, tmp_path, monkeypatch):
    run = opened(small, tmp_path / "a")
    path, known = [str(collect_stats(run).paths[0])], identify(run).sets
    again = opened(small, tmp_path / "b", from_stats=path)
    monkeypatch.setattr(type(again), "loaded", property(lambda _: pytest.fail("model was loaded")))
    assert identify(again).sets == known
    other = opened(small, tmp_path, from_stats=path, p=0.3, position="last_prompt", bootstrap=5)
    assert identify(other).sets["en/text"] != known["en/text"]
    assert explain(other).position == "last_prompt"
    changes = {"score": "effect_size", "scope": "global", "chosen": "en/text | all"}
    assert identify(opened(small, tmp_path, from_stats=path, **changes)).neurons
    with pytest.raises(StoreError, match=r"text.0.ffn.* again: it is no further pass"):
        identify(opened(small, tmp_path, from_stats=path * 2))
    with pytest.raises(StoreError, match="does not exist"):
        identify(opened(small, tmp_path, from_stats=["/nowhere/stats.safetensors"]))


def test_a_run_that_was_cut_off_while_collecting_goes_on(small, tmp_path, monkeypatch):
    real, calls = collecting.stream, []

    def cut(*given, on_batch, checkpoint, **more):
        def advance(count):
            calls.append(count)
            if len(calls) == 2:
                raise KeyboardInterrupt

        checkpoint.seconds, checkpoint.share = 0.0, 1e9
        return real(*given, on_batch=advance, checkpoint=checkpoint, **more)

    monkeypatch.setattr(collecting, "stream", cut)
    with pytest.raises(KeyboardInterrupt):
        collect_stats(opened(small, tmp_path / "a", batch_size=3))
    assert list(tmp_path.glob("a/stages/collect/*/unfinished.safetensors"))
    monkeypatch.setattr(collecting, "stream", real)
    resumed = collect_stats(opened(small, tmp_path / "a", batch_size=3)).paths[0]
    whole = collect_stats(opened(small, tmp_path / "b", batch_size=3)).paths[0]
    assert resumed.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("a/stages/collect/*/unfinished.safetensors"))


def test_damping_is_the_edit_folded_in_and_never_forced_out(small, tmp_path, judged):
    """Columns scaled by each neuron's own factor give the logits of the edit at inference."""
    small = small.model_copy(deep=True)
    small.data.sources[0].limit = 12
    run = opened(small, tmp_path, responses="own_refused", p=0.3)
    section = run.config.align.model_copy(
        update={"damp": DampSection(on=True, strength=0.5, scopes=["response"])}
    )
    run.config = run.config.model_copy(update={"align": section})
    atlas = identify(run)
    neurons, told = driving(run, atlas)
    assert neurons
    assert not neurons & atlas.sets["all"]
    assert neurons & atlas.sets["complied:en/text"] == neurons
    stats, cut = collect_stats(run).stats(), halves(10, 0)[0]
    drawn = drawn_sets(stats, atlas.places, selection(run), "en", lambda _: cut)
    assert set(drawn) == set(atlas.sets)  # what is reported of every set is known of every set
    assert all(bool((told[site][list(ids)] > 0.5).all()) for site, ids in neurons.units.items())
    assert any(bool((each == 0.5).any()) for each in told.values())  # higher in refusals
    arm, beside = damping_arms(run, atlas)
    assert (arm.condition.name, beside.condition.name) == ("damped", "random-damped-0")
    assert not beside.neurons & arm.neurons
    assert len(beside.neurons) == len(arm.neurons)
    factors = factors_of(told, 0.5)
    assert all(bool(((f > 0.5) & (f <= 1)).all()) for f in factors.values())
    here = {site: factors[site][list(ids)] for site, ids in neurons.units.items()}
    rows = run.examples("train")[:2]
    inputs = encode(run.loaded, rows, [row.target or "x" for row in rows]).inputs
    with torch.no_grad():
        base = run.loaded.model(**inputs).logits
        with intervening(run.bound, neurons, damp(here)):
            edited = run.loaded.model(**inputs).logits
        with applied(run.bound, arm.delta()):
            folded = run.loaded.model(**inputs).logits
    torch.testing.assert_close(folded, edited, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(folded, base, atol=1e-4)
    names = [state.name for state in damping_states(run, atlas)]
    assert names == ["damped-response", "random-damped-0-response"]
    for odd in ("all", "en/text - complied", "MS:en"):
        section.damp.chosen = odd
        with pytest.raises(ConfigError, match="only sets of neurons that go with complied"):
            driving(run, atlas)


def test_a_unit_that_tells_perfectly_is_damped_most_and_nothing_is_silenced():
    told = {Site("text", 0): torch.tensor([0.5, 0.75, 1.0])}
    assert factors_of(told, 0.5)[Site("text", 0)].tolist() == [1.0, 0.75, 0.5]
    with pytest.raises(ConfigError, match="never silences"):
        factors_of(told, 1.0)


@pytest.mark.parametrize(
    ("attacks", "gap", "out"),
    [(0.3, 0.6, True), (0.5, 0.6, False), (0.3, 0.5, False), (None, 0.6, False)],
)
def test_a_damped_model_leaves_only_where_safety_grew(attacks, gap, out):
    def standing(asr, value):
        return Standing(
            condition="x", contrast="matched", gap=value, gap_low=None, gap_high=None,
            refusal_harmful=None, attack_success=asr, over_refusal=0.0, benign_kl=0.0,
            harmful=9, benign=9, unscored=0,
        )  # fmt: skip

    facts = GateFacts(
        condition="damped", base=standing(0.5, 0.5), aligned=standing(attacks, gap), limits=[]
    )
    if out:
        require_stronger(facts)
        return
    with pytest.raises(GateError, match="Not even with --force") as caught:
        require_stronger(facts)
    assert "-0.0 points" not in str(caught.value)

"""Prompt crossed with response, own responses, and choosing again without the model."""

import pytest

import tiny_folders
from precise_shield.core.errors import EmptyCellError, StoreError
from precise_shield.core.records import Verdict
from precise_shield.data.refusals import wordings
from precise_shield.identify.crossed import ANSWER, COMPLIED, REFUSAL, REFUSED
from precise_shield.sandbox.lexicon import REFUSAL_USES, lexicon
from precise_shield.sandbox.manifest import examples as kingdom
from precise_shield.workflows import collecting, own
from precise_shield.workflows.collecting import collect_stats
from precise_shield.workflows.context import started
from precise_shield.workflows.explain import explain
from precise_shield.workflows.factorial import OPENER_TOKENS, crossed_rows, deal
from precise_shield.workflows.identify import identify
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

"""Dose-response, rival sets and the matrix: numbers beside the same numbers by another route."""

import dataclasses
import json

import pytest
import torch

from precise_shield.core.errors import ConfigError, DataError, EmptySetError
from precise_shield.core.sites import NeuronSet
from precise_shield.identify.importance import importance, top_for_harmful
from precise_shield.identify.select import contrast
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.models.readings.likelihood import answer_logprobs, benign_kl
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.stage import identify, selection
from precise_shield.workflows.verify.matrix import corrected, matrix
from precise_shield.workflows.verify.panel import Surgery, first_token_readout, key, panel, spread
from precise_shield.workflows.verify.role_items import held_out, readables, taught
from precise_shield.workflows.verify.stage import of_refused, readout_of_refused, verify


@pytest.fixture(scope="module")
def at_work(finished, config_text, copied):
    """The finished run, copied, with other `verify` settings: collected stages are reused."""
    run, _ = finished

    def again(*changes):
        other = started(parse_config(config_text, changes), copied, quiet=True)
        other.__dict__["loaded"] = run.loaded
        return other

    return again


def test_a_dose_of_one_is_exactly_the_untouched_model_and_zero_is_suppression(finished):
    _, summary = finished
    causal = summary.verification.causal
    doses = {point.factor: point for point in causal.dose}
    assert sorted(doses) == [0, 1, 2]
    for reading in (doses[1].chosen, *doses[1].random):
        assert reading.log_odds == causal.panel.untouched.log_odds
        assert reading.perplexity == causal.panel.untouched.perplexity
        assert reading.kl == 0
    chosen = next(rival for rival in causal.rivals if rival.kind == "chosen")
    assert doses[0].chosen == chosen.readings[0]
    assert doses[0].chosen.kl > 0
    assert doses[2].chosen.log_odds != doses[0].chosen.log_odds
    assert len({reading.log_odds for reading in doses[0].random}) == 2  # sets differ


def test_the_check_is_read_apart_where_there_is_a_refusal_to_take_away():
    base = torch.tensor([1.0, -3.0, 2.0, 0.0])
    off = torch.tensor([0.5, -9.0, 1.0, 9.0])
    random = torch.stack([base, base - torch.tensor([2.0, 50.0, 2.0, 50.0])])
    row = readout_of_refused(base, off, random)
    assert (row.n, row.base, row.suppressed, row.random) == (2, 1.5, 0.75, [1.5, -0.5])
    assert row.p_value == 2 / 3
    assert of_refused(row).endswith("-0.75 nats, random sets -1.00 (p = 0.667).")
    assert readout_of_refused(-base.abs(), off, random) is None


def test_panel_readings_are_those_of_the_plain_functions(finished):
    run, summary = finished
    seen, atlas = panel(run), identify(run)
    assert {row.harm for row in seen.benign} == {"benign"}
    assert len({row.cell for row in seen.benign}) == len(seen.benign) == 6  # spread over cells
    base = first_token_readout(run, seen.harmful)()
    assert (base > 0).tolist() == seen.refused
    facts = summary.verification.causal.panel
    assert (facts.harmful, facts.refused) == (6, sum(seen.refused))
    assert facts.untouched.log_odds == pytest.approx(float(base.mean()), abs=1e-5)
    state = lambda: intervening(run.bound, atlas.neurons, suppress)  # noqa: E731
    said = [row.target for row in seen.benign]
    with state():
        odds = first_token_readout(run, seen.harmful)()
        scores = answer_logprobs(run.loaded, seen.benign, said)
    reading = summary.verification.causal.rivals[0].readings[0]
    assert reading.log_odds == pytest.approx(float(odds.mean()))
    apart = benign_kl(run.loaded, seen.benign, said, state)
    assert reading.kl == pytest.approx(float(apart.mean()), abs=1e-6)
    total = sum(score.logprob for score in scores) / sum(score.tokens for score in scores)
    assert reading.perplexity == pytest.approx(float(torch.tensor(-total).exp()), rel=1e-6)


def test_probing_data_are_part_of_what_the_causal_check_is_made_by(finished, at_work):
    """Random sets and means come from probing rows that no prompt of the check is among."""
    run, _ = finished
    prompts = run.examples("validation")
    same, other = at_work(), at_work()
    examples = list(run.data.examples)
    gone = next(row for row in examples if (row.split, row.harm) == ("probe", "benign"))
    other.__dict__["data"] = dataclasses.replace(
        run.data, examples=[row for row in examples if row is not gone]
    )
    assert key(same, *prompts) == key(run, *prompts)
    apart = key(other, *prompts)
    assert {name for name in apart if apart[name] != key(run, *prompts)[name]} == {"collect"}


def test_rivals_are_other_neurons_and_p_counts_them(finished):
    _, summary = finished
    rivals = {rival.kind: rival for rival in summary.verification.causal.rivals}
    assert {"chosen", "random", "equal_importance", "remainder"} == rivals.keys()

    def refusal(reading):
        return reading.log_odds if reading.refused is None else reading.refused

    own = refusal(rivals["chosen"].readings[0])
    for kind in ("random", "equal_importance"):
        values = [refusal(reading) for reading in rivals[kind].readings]
        assert rivals[kind].p_value == (1 + sum(v <= own for v in values)) / (1 + len(values))
        assert rivals[kind].neurons == rivals["chosen"].neurons
    assert rivals["remainder"].p_value is None
    assert rivals["random"].readings != rivals["equal_importance"].readings


def test_equal_importance_is_nearer_in_score_than_a_random_set(finished):
    from precise_shield.workflows.verify.dose import _equals

    run, _ = finished
    surgery, atlas = Surgery(run), identify(run)
    stats = collect_stats(run).stats()
    scores = importance(stats, atlas.places, selection(run))

    def mean(neurons):
        rows = [scores[site][list(ids)] for site, ids in neurons.units.items()]
        return float(torch.cat(rows).mean())

    (equal,) = _equals(run, surgery, 1)
    everywhere = NeuronSet.of({site: range(width) for site, width in atlas.widths.items()})
    assert not equal & atlas.neurons
    assert equal.counts() == atlas.neurons.counts()
    rest = everywhere - atlas.neurons
    assert abs(mean(equal) - mean(atlas.neurons)) < abs(mean(rest) - mean(atlas.neurons))


def test_the_top_of_the_harmful_arm_holds_every_selected_neuron_and_more(finished):
    run, _ = finished
    atlas, choice = identify(run), selection(run)
    stats = collect_stats(run).stats()
    top = top_for_harmful(stats, atlas.places, choice)
    assert not atlas.sets["all"] - top
    assert len(top) > len(atlas.sets["all"])
    one = contrast(stats, atlas.places[0], choice).draw(0)
    assert not one - top_for_harmful(stats, atlas.places[:1], choice)


def test_the_matrix_is_the_readout_cell_by_cell(at_work):
    run = at_work("verify.matrix={sets: [cells, all], random_sets: 2, per_cell: 2}")
    cells, surgery = matrix(run), Surgery(run)
    names = {cell.of for cell in cells}
    assert {"en/text", "fr/image_dominant", "all"} <= names
    assert len(cells) == len(names) * 6  # two languages x three modalities
    prompts = [row for row in run.examples("validation") if row.harm == "harmful"]
    cell = next(c for c in cells if (c.of, c.language, c.modality) == ("en/text", "fr", "text"))
    rows = [row for row in prompts if (row.language, row.modality) == ("fr", "text")][:2]
    readout = first_token_readout(run, rows)
    assert cell.base == pytest.approx(float(readout().mean()))
    with surgery.off(surgery.named("en/text"))():
        assert cell.suppressed == pytest.approx(float(readout().mean()), abs=1e-5)
    assert cell.suppressed != cell.base
    assert len(cell.random) == 2
    assert cell.p_value == (1 + sum(r <= cell.suppressed for r in cell.random)) / 3
    assert matrix(run) == cells  # read back


def test_holm_is_over_the_whole_matrix(at_work):
    run = at_work("verify.matrix={sets: [all], random_sets: 2, per_cell: 1}")
    cells = [cell.model_copy(update={"p_value": 0.01}) for cell in matrix(run)]
    (p_value,) = {cell.p_holm for cell in corrected(cells)}
    assert p_value == pytest.approx(0.01 * len(cells))


def test_languages_stand_for_shared_private_and_whole_sets_and_empty_ones_are_said(at_work):
    run = at_work("verify.matrix={sets: [languages], random_sets: 1, per_cell: 1}")
    names, warned = {cell.of for cell in matrix(run)}, " ".join(run.warnings)
    for name in ("MS:en", "MS:fr", "SS:fr", "MS:fr - SS:fr"):
        assert (name in names) != (name in warned)
    again = at_work("verify.matrix={sets: [languages], random_sets: 1, per_cell: 1}")
    matrix(again)  # the stage is there, and says what it said when it was made
    assert [w for w in again.warnings if "matrix" in w] == [
        w for w in run.warnings if "matrix" in w
    ]
    assert "not in the matrix" in warned
    with pytest.raises(ConfigError, match="no set 'MS:xx'"):
        matrix(at_work("verify.matrix={sets: ['MS:xx']}"))


def test_the_benign_mean_and_a_scope_are_other_suppressions_with_keys_of_their_own(at_work):
    found = {}
    small = ("verify.panel=0", "verify.random_sets=1", "verify.per_cell=1")
    for edit, scope in (("zero", "all"), ("benign_mean", "all"), ("zero", "context")):
        run = at_work(f"verify.edit={edit}", f"verify.scope={scope}", *small)
        found[edit, scope] = verify(run)
        assert (found[edit, scope].causal.edit, found[edit, scope].causal.scope) == (edit, scope)
    values = [each.readouts[0].suppressed for each in found.values()]
    assert len(set(values)) == len(values)
    assert len({each.readouts[0].base for each in found.values()}) == 1


def test_a_named_remainder_without_neurons_is_an_error(at_work):
    with pytest.raises(EmptySetError, match="holds no neuron"):
        verify(at_work("verify.remainders=['all - all']"))


def test_a_spread_takes_turns_between_cells(finished):
    run, _ = finished
    rows = run.examples("validation")
    few = spread(rows, 12, 0)
    assert len({row.cell for row in few}) == 12  # 2 languages x 3 modalities x 2 harms
    assert spread(rows, 10_000, 0) != rows
    assert sorted(r.id for r in spread(rows, 10_000, 0)) == sorted(r.id for r in rows)


def test_roles_go_through_the_run_and_say_what_cannot_be_told(at_work, tmp_path):
    """The tiny model has random weights: whatever it was not taught cannot be lost."""
    table = tmp_path / "judging.jsonl"
    rows = [
        {
            "language": "en",
            "prompt": f"Is {n} safe?",
            "answer": "Yes",
            "wrong": "No",
            "harmful": n % 2,
        }
        for n in range(6)
    ]
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    changes = ("verify.panel=0", "verify.random_sets=1", "verify.per_cell=1")
    roles = (
        f"verify.roles={{sets: [chosen, en/text], random_sets: 19, prompts: 4, judging: {table}}}"
    )
    run = at_work(*changes, roles, "verify.roles.generated=2")
    first, second = verify(run).causal.roles
    assert (first.of, second.of) == ("chosen", "en/text")
    assert first.neurons > second.neurons
    for role in (first, second):
        assert {c.name for c in role.components} == {
            "refusal", "judging", "continuation", "copying", "apology",
        }  # fmt: skip
        assert all(c.note for c in role.components if not c.able)
        assert role.verdict == "not testable" or any(c.able for c in role.components)
    assert first.judged.n + first.judged.unscored == 2
    assert len(first.judged.random) == 1
    assert verify(run).causal.roles == [first, second]  # read back
    kept = {path.name for path in run.folder.rglob("stages/role*/*/*")}
    assert kept == {"role.json", "responses.jsonl", "stage.json"}  # no suppressed model is saved


def test_readouts_use_wordings_that_probing_never_saw(finished):
    run, _ = finished
    seen = taught(run)
    for row in run.examples("validation"):
        if row.harm == "harmful":
            assert held_out(run, row) not in seen[row.language]
    assert all(seen.values())
    strange = dataclasses.replace(run.examples("validation")[0], language="tlh", target=None)
    assert held_out(run, strange) is None


def test_a_file_of_questions_that_lacks_a_field_is_one_sentence(at_work, tmp_path):
    table = tmp_path / "judging.jsonl"
    table.write_text('{"language": "en", "prompt": "Safe?"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1: needs an object with language, prompt, answer"):
        readables(at_work(f"verify.roles.judging={table}"))
    with pytest.raises(DataError, match=r"fix verify.roles.judging"):
        readables(at_work("verify.roles.judging=nowhere.jsonl"))

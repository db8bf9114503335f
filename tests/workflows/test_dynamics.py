"""Influence and writing are stages of a run, hold ids only, and say what they cannot measure."""

from dataclasses import replace

from precise_shield.core.sites import NeuronSet
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.explain.dynamics import inter_layer, writes
from precise_shield.workflows.explain.explained import before_tuning
from precise_shield.workflows.identify.stage import identify


def test_a_run_has_the_matrices_of_its_chosen_set_beside_random_ones(finished):
    run, summary = finished
    found, atlas = summary.explained.influence, identify(run)
    assert found.layers == sorted({site.layer for site in atlas.neurons.units})
    assert sum(found.neurons) == len(atlas.neurons)
    assert found.random_sets == run.config.explain.influence.random_sets
    assert found.moved[0][1] > 0
    assert found.moved[1][0] is None
    assert found.moved != found.random_moved
    assert found.prompts == len({(e.language, e.modality) for e in run.data.examples})


def test_what_neurons_write_names_prompts_by_id_alone(finished):
    run, summary = finished
    found = summary.explained.writes
    probing = {example.id: example for example in run.examples("probe")}
    chosen = identify(run).neurons.to_json()
    assert found.neurons
    for one in found.neurons:
        assert one.unit in chosen[one.site]
        assert len(one.tokens) == run.config.explain.writes.tokens
        assert {driver.example for driver in one.prompts} <= set(probing)
    (stage,) = {path.parent for path in run.folder.glob("stages/writes/*/writes.json")}
    text = (stage / "writes.json").read_text()
    assert not [e.id for e in probing.values() if e.prompt in text]


def test_the_explain_command_says_all_that_needs_no_tuning(finished):
    run, summary = finished
    found = before_tuning(run)
    assert found.influence == summary.explained.influence
    assert found.writes == summary.explained.writes
    assert {row.condition for row in found.headroom.rows} == {"base"}


def test_a_set_in_one_layer_has_no_influence_and_a_warning_says_so(finished, config_text, tmp_path):
    run, _ = finished
    atlas = identify(run)
    site = min(atlas.neurons.units)
    alone = replace(atlas, sets={**atlas.sets, atlas.chosen: NeuronSet.of({site: [0]})})
    other = started(parse_config(config_text), tmp_path, quiet=True)
    assert inter_layer(other, alone) is None
    assert "fewer than two layers" in other.warnings[-1]
    changes = ["explain.influence.on=false", "explain.writes.on=false"]
    off = started(parse_config(config_text, changes), tmp_path, quiet=True)
    assert (inter_layer(off, atlas), writes(off, atlas)) == (None, None)

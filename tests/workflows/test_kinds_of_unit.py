"""Runs over several kinds of units at once."""

import pytest

import tiny_folders
from precise_shield.core.errors import ConfigError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.base.sections.model import ModelSection
from precise_shield.workflows.explain.stage import by_kind, by_layer
from precise_shield.workflows.identify.stage import identify
from precise_shield.workflows.plan.doctor import doctor
from precise_shield.workflows.run import run_all

WIDTHS = {
    Site("text", 0): 6,
    Site("text", 2): 6,
    Site("text", 2, "expert", 0): 4,
    Site("text", 2, "query"): 8,
    Site("vision", 5): 6,
}
NEURONS = NeuronSet.of(
    {
        Site("text", 0): [1],
        Site("text", 2, "expert", 0): [0, 3],
        Site("text", 2, "query"): [7],
        Site("vision", 5): [2],
    }
)


def test_layers_are_counted_by_number_over_all_kinds_of_the_language_model():
    assert by_layer(NEURONS, WIDTHS) == [1, 0, 3]
    vision = {Site("vision", 5): 6}
    assert by_layer(NeuronSet.of({Site("vision", 5): [2]}), vision) == [0, 0, 0, 0, 0, 1]


def test_kinds_are_counted_tower_by_tower():
    counts = {"text.expert": 2, "text.ffn": 1, "text.query": 1, "vision.ffn": 1}
    assert by_kind(NEURONS, WIDTHS) == counts
    assert sum(counts.values()) == len(NEURONS)


@pytest.mark.parametrize("family", ["qwen2_moe", "phi3"])
def test_doctor_shows_the_units_of_each_kind(family, tmp_path):
    tiny_folders.save_tiny(family, tmp_path / family)
    text = doctor(ModelSection(path=str(tmp_path / family)))["towers"]["text"]
    kinds = {kind: facts["units"] for kind, facts in text["kinds"].items()}
    rows = {"query": 3 * 16, "key": 3 * 8, "value": 3 * 8, "attention": 3 * 16}
    if family == "phi3":
        assert kinds == {"ffn": 3 * 24, **rows}
        assert text["kinds"]["query"]["read_at"].startswith("output of model.layers.0")
    else:
        assert kinds == {"ffn": 3 * 20, "expert": 3 * 4 * 24, **rows}
        assert text["units_a_layer"] == 20 + 4 * 24
    assert text["neurons"] == kinds["ffn"] + kinds.get("expert", 0)


CONFIG = """
name: units
model: {{path: {model}, dtype: float32, device: cpu}}
data:
  sources: [{{source: sandbox, limit: 2}}]
  languages: [en]
  modalities: [{modality}]
  benign_targets: given
identify: {{p: 0.2, sweep: [], chosen: all, draws: 19, units: [{units}], towers: [{towers}]}}
verify: {{random_sets: 2, per_cell: 1}}
align: {{epochs: 1, batch_size: 4, form: {form}}}
evaluate: {{max_new_tokens: 2, kl_rows: 2, samples: 2}}
"""


def ran(folder, out, units, form, towers="text", modality="text"):
    text = CONFIG.format(model=folder, units=units, form=form, towers=towers, modality=modality)
    return run_all(started(parse_config(text), out, quiet=True))


@pytest.mark.slow
def test_a_run_over_both_towers_of_a_model_that_packs_its_pictures(tmp_path):
    tiny_folders.save_tiny("qwen2_5_vl", tmp_path / "model")
    summary = ran(
        tmp_path / "model", tmp_path / "out", "ffn, value", "direct", "text, vision",
        "image_dominant",
    )  # fmt: skip
    assert {kind: n for kind, n in summary.model.units.items() if kind.endswith("ffn")} == {
        "text.ffn": 72,
        "vision.ffn": 40,
    }
    chosen = next(one for one in summary.neurons.sets if one.name == "all")
    assert chosen.by_kind["vision.ffn"] + chosen.by_kind["vision.value"] > 0
    assert all(receipt.untouched_verified for receipt in summary.receipts)


@pytest.mark.parametrize(
    ("score", "modality", "sentence"),
    [
        ("precise_shield", "text", "probing examples have no picture"),
        ("pathways", "image_dominant", "read at positions in the text"),
    ],
)
def test_what_a_vision_tower_cannot_give_is_refused(
    model_folder, tmp_path, score, modality, sentence
):
    text = CONFIG.format(
        model=model_folder, units="ffn", form="direct", towers="vision", modality=modality
    )
    run = started(parse_config(text, [f"identify.score={score}"]), tmp_path / "out", quiet=True)
    with pytest.raises(ConfigError, match=sentence):
        identify(run)


def test_a_run_over_every_kind_of_a_mixture_of_experts(tmp_path):
    tiny_folders.save_tiny("qwen3_moe", tmp_path / "model")
    summary = ran(
        tmp_path / "model", tmp_path / "out", "ffn, expert, query, key, value, attention", "direct"
    )
    searched = {"ffn": 24, "expert": 2 * 4 * 24, "query": 48, "key": 24, "value": 24}
    assert summary.model.units == {
        f"text.{kind}": n for kind, n in {**searched, "attention": 48}.items()
    }
    chosen = next(one for one in summary.neurons.sets if one.name == "all")
    assert sum(chosen.by_kind.values()) == chosen.size == sum(chosen.by_layer)
    assert chosen.by_kind["text.expert"] > 0
    assert chosen.by_kind["text.query"] + chosen.by_kind["text.attention"] > 0
    assert all(receipt.untouched_verified for receipt in summary.receipts)
    assert summary.receipts[0].changed_weights > 0
    assert {row.kind for row in summary.neurons.profile.depth} == {*searched, "attention"}

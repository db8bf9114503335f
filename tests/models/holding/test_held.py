"""Models that are held elsewhere than whole on one device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny_folders
from precise_shield.align.delta import LoraRows
from precise_shield.align.slices import slices_of
from precise_shield.core.errors import LoadingError, UnsupportedModelError
from precise_shield.core.sites import NeuronSet
from precise_shield.models.architecture.bind import bind
from precise_shield.models.holding.held import is_offloaded, is_sharded, whole
from precise_shield.models.loading.model import load
from precise_shield.models.passes.taps import tapped
from precise_shield.models.readings.head import hidden_states

NEAR = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
SPREAD = {**NEAR, "lm_head": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tiny_folders.tiny_loaded("llama", tmp_path_factory.mktemp("held") / "llama")


@pytest.fixture(scope="module")
def spread(plain):
    layers = {f"model.layers.{n}": "disk" for n in range(1, len(plain.model.model.layers))}
    return load(replace(plain.spec, device_map={**SPREAD, **layers}))


def seen(loaded):
    bound, found = bind(loaded.model), {}
    ids = torch.arange(3, 11)[None]
    with torch.no_grad(), tapped(bound, lambda site, acts: found.update({site: acts.clone()})):
        hidden_states(bound, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return found


def test_a_model_that_is_partly_on_disk_is_the_same_model(plain, spread):
    """Its fingerprint, so every key; activations; and the column norms that scores multiply by."""
    assert is_offloaded(spread.model)
    assert not is_offloaded(plain.model)
    assert not is_sharded(spread.model)
    assert spread.fingerprint == plain.fingerprint
    assert spread.device == torch.device("cpu")
    ours, theirs = seen(plain), seen(spread)
    assert len(ours) > 1
    for site, acts in ours.items():
        torch.testing.assert_close(theirs[site], acts, rtol=0, atol=0)
    here, there = bind(plain.model).sites, bind(spread.model).sites
    for site, spot in here.items():
        assert torch.equal(there[site].column_norms(), spot.column_norms())


def test_nothing_is_trained_over_weights_on_disk(spread):
    bound = bind(spread.model)
    chosen = NeuronSet.of({min(bound.sites): [0]})
    with pytest.raises(UnsupportedModelError, match="must lie on a device"):
        slices_of(bound, chosen, LoraRows().roles)
    offloaded = spread.model.model.layers[1].mlp.down_proj.weight
    with pytest.raises(UnsupportedModelError, match="on disk"):
        whole(offloaded)


def test_a_map_without_a_disk_trains(plain):
    mapped = load(replace(plain.spec, device_map={"": "cpu"}))
    bound = bind(mapped.model)
    assert not is_offloaded(mapped.model)
    chosen = NeuronSet.of({min(bound.sites): [0]})
    assert slices_of(bound, chosen, LoraRows().roles)


def test_what_cannot_be_held_is_refused(plain, monkeypatch):
    with pytest.raises(LoadingError, match="there is one"):
        load(replace(plain.spec, shard=True))
    with pytest.raises(LoadingError, match="input embeddings"):
        mapped = {**NEAR, "lm_head": "cpu", "model.layers": "cpu"}
        load(replace(plain.spec, device_map={**mapped, "model.embed_tokens": "disk"}))
    monkeypatch.setattr("precise_shield.models.holding.held.find_spec", lambda _: None)
    with pytest.raises(LoadingError, match=r"precise-shield\[scale\]"):
        load(replace(plain.spec, device_map="auto"))

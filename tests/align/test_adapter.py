"""Stock PEFT loads the adapter, computes with it what we compute, and merges it as we do."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from align_tiny import FAMILIES, batch, build, chosen, weights
from safetensors.torch import load_file, save_file

from precise_shield.align.adapter import adapter_of, check_adapter, export_adapter
from precise_shield.align.delta import DirectUnits, LoraRows, tuning
from precise_shield.align.lowrank import LowRank, is_low_rank, low_rank
from precise_shield.align.receipt import StoredReceipt, make_receipt, seal
from precise_shield.align.slices import fingerprint
from precise_shield.align.sparse import apply, undo
from precise_shield.core.errors import ReceiptError, StoreError, UnsupportedModelError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.models.architecture.bind import bind

FORMS = {"lora": LoraRows(rank=3, alpha=6.0, dropout=0.0), "direct": DirectUnits()}


def trained(bound, form, neurons=None):
    """A delta, its factors and its receipt; the model is as it came afterwards."""
    neurons = neurons or chosen(bound)
    before = seal(bound, neurons, form)
    with tuning(bound, neurons, form, seed=0) as deltas, torch.no_grad():
        for parameter in deltas.parameters():
            parameter.normal_(std=0.1)
        bound.model(**batch(bound).inputs)
    sparse = deltas.sparse()
    receipt = make_receipt(
        bound, before, sparse, form, deltas.counts(),
        condition="aligned", steps=1, learning_rate=1e-3, final_loss=1.0,
    )  # fmt: skip
    with torch.no_grad():
        logits = bound.model(**batch(bound).inputs).logits
    undo(bound, sparse)
    written = {change.name: fingerprint(change.new) for change in sparse.changes}
    return sparse, low_rank(deltas), StoredReceipt(receipt, before, neurons, form, written), logits


def exported(bound, folder, form):
    sparse, factors, stored, logits = trained(bound, form)
    export_adapter(
        bound, folder, delta=sparse, factors=factors, stored=stored, card="card",
        base="someone/tiny", revision=None,
    )  # fmt: skip
    return sparse, factors, stored, logits


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", FAMILIES)
def test_peft_loads_computes_and_merges_the_same_model(name, form, tmp_path):
    bound = build(name)
    base = weights(bound)
    sparse, _, _, logits = exported(bound, tmp_path / "adapter", form)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]  # one rank, no patterns: what servers accept
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    ranks = {
        value.shape[0 if key.endswith("lora_A.weight") else 1]
        for key, value in load_file(tmp_path / "adapter" / "adapter_model.safetensors").items()
    }
    assert ranks == {config["r"]}

    rows = batch(bound)
    with torch.no_grad():
        before = bound.model(**rows.inputs).logits
        wrapped = peft.PeftModel.from_pretrained(bound.model, tmp_path / "adapter")
        torch.testing.assert_close(wrapped(**rows.inputs).logits, logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, logits, atol=1e-2)
    merged = wrapped.merge_and_unload()
    ours = build(name)
    apply(ours, sparse)
    for key, value in weights(ours).items():
        torch.testing.assert_close(merged.state_dict()[key], value, rtol=1e-6, atol=1e-6)
    moved = {key for key, value in base.items() if not torch.equal(value, weights(ours)[key])}
    assert moved == {change.name for change in sparse.changes}


def test_in_bfloat16_a_direct_adapter_merges_bit_for_bit(tmp_path):
    bound = build("llama", torch.bfloat16)
    sparse, _, _, _ = exported(bound, tmp_path / "adapter", DirectUnits())
    merged = peft.PeftModel.from_pretrained(bound.model, tmp_path / "adapter").merge_and_unload()
    ours = build("llama", torch.bfloat16)
    apply(ours, sparse)
    assert all(torch.equal(merged.state_dict()[k], v) for k, v in weights(ours).items())


def test_more_rows_than_servers_take_point_to_the_merged_export(monkeypatch):
    bound = build("llama")
    sparse, _, _, _ = trained(bound, DirectUnits())
    monkeypatch.setattr("precise_shield.align.adapter.HIGHEST_RANK", 2)
    with pytest.raises(UnsupportedModelError, match="merged checkpoint"):
        adapter_of(bound, sparse, None)


def test_a_weight_that_modules_share_is_no_lora_target():
    bound = build("llama")
    layers = bound.model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    bound = bind(bound.model)
    sparse, _, _, _ = trained(bound, DirectUnits(), NeuronSet.of({Site("text", 0): [1]}))
    with pytest.raises(UnsupportedModelError, match="shared by 2 modules"):
        adapter_of(bound, sparse, None)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_an_adapter_that_was_tampered_with_is_caught(name, form, tmp_path):
    bound, folder = build(name), tmp_path / "adapter"
    _, _, stored, _ = exported(bound, folder, form)
    check_adapter(bound, folder, stored)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    key = next(k for k in tensors if k.endswith("lora_B.weight") and "down" not in k)
    tensors[key][9] = 1.0  # a row that no chosen neuron owns
    save_file(tensors, file)
    with pytest.raises(ReceiptError, match="outside the chosen neurons"):
        check_adapter(bound, folder, stored)
    other = build(name)
    other.model.get_input_embeddings().weight.data[3, 3] += 1
    with pytest.raises(ReceiptError):
        check_adapter(other, folder, stored)
    with pytest.raises(StoreError, match="would be overwritten"):
        exported(build(name), folder, form)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "llava"])
def test_the_low_rank_form_makes_the_exact_delta_again(name, dtype, tmp_path):
    bound = build(name, dtype)
    sparse, factors, _, _ = trained(bound, FORMS["lora"])
    factors.save(tmp_path / "small.safetensors")
    sparse.save(tmp_path / "exact.safetensors")
    assert is_low_rank(tmp_path / "small.safetensors")
    assert not is_low_rank(tmp_path / "exact.safetensors")
    again = LowRank.load(tmp_path / "small.safetensors").expand(build(name, dtype))
    for one, two in zip(again.changes, sparse.changes, strict=True):
        assert (one.name, one.dim, one.index, one.base) == (two.name, two.dim, two.index, two.base)
        assert torch.equal(one.old, two.old)
        assert torch.equal(one.new, two.new)
    apply(bound, sparse)
    with pytest.raises(ReceiptError, match="applied already"):
        factors.expand(bound)
    assert trained(build(name), FORMS["direct"])[1] is None


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "gemma2", "llava"])
def test_attention_rows_and_columns_go_along(name, form, tmp_path):
    """Fused projections included; W_O's columns have no row, and come in the direct form."""
    bound = build(name, every=True)
    keep = {"query", "key", "value"} | ({"attention"} if form == FORMS["direct"] else set())
    neurons = NeuronSet.of({s: ids for s, ids in chosen(bound).units.items() if s.kind in keep})
    sparse, factors, stored, logits = trained(bound, form, neurons)
    assert any("self_attn" in change.name for change in sparse.changes)
    folder = tmp_path / "adapter"
    export_adapter(
        bound, folder, delta=sparse, factors=factors, stored=stored, card="", base="t",
        revision=None,
    )  # fmt: skip
    check_adapter(bound, folder, stored)
    rows = batch(bound)
    with torch.no_grad():
        wrapped = peft.PeftModel.from_pretrained(bound.model, folder)
        torch.testing.assert_close(wrapped(**rows.inputs).logits, logits, rtol=1e-4, atol=1e-4)


def test_biases_and_experts_have_no_adapter_and_say_where_to_go():
    for name in ("qwen2", "qwen3_moe"):
        bound = build(name, every=True)
        kind = "query" if name == "qwen2" else "expert"
        neurons = NeuronSet.of({s: [1] for s in bound.sites if s.kind == kind})
        sparse, _, _, _ = trained(bound, DirectUnits(), neurons)
        with pytest.raises(UnsupportedModelError, match="merged checkpoint"):
            adapter_of(bound, sparse, None)

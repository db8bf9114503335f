"""A receipt holds only when nothing outside the chosen slices moved."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from align_tiny import KINDS, batch, build, chosen, weights

from precise_shield.align import slices as slicing
from precise_shield.align.delta import AllParameters, DirectUnits, LoraRows, form_name, tuning
from precise_shield.align.receipt import (
    check_receipt,
    make_receipt,
    seal,
    untouched_hash,
    verify,
)
from precise_shield.align.slices import fingerprint, slices_of
from precise_shield.align.sparse import undo
from precise_shield.core.errors import ReceiptError
from precise_shield.models.architecture.bind import bind
from tiny import IDS, TEXT

FORMS = [LoraRows(rank=3, dropout=0.0), DirectUnits()]


@pytest.fixture(params=FORMS, ids=["lora", "direct"])
def form(request):
    return request.param


def tune(bound, form, within=None):
    before = seal(bound, chosen(bound), form)
    with tuning(bound, chosen(bound), form, seed=0) as deltas:
        for parameter in deltas.parameters():
            parameter.data.normal_(std=0.1)
        bound.model(**batch(bound).inputs)
        if within is not None:
            within(bound, deltas)
    return before, deltas


def receipt_of(bound, form, before, deltas):
    return make_receipt(
        bound, before, deltas.sparse(), form, deltas.counts(),
        condition="aligned", steps=7, learning_rate=1e-3, final_loss=0.5,
    )  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("form", [*FORMS, AllParameters()], ids=form_name)
def test_a_clean_run_gets_a_receipt_with_exact_figures(name, form):
    bound = build(name)
    was = weights(bound)
    before, deltas = tune(bound, form)
    receipt = receipt_of(bound, form, before, deltas)
    assert receipt.untouched_verified
    assert receipt.untouched_hash == before.digest == untouched_hash(bound, chosen(bound), form)
    tied = {id(p): p.numel() for p in bound.model.parameters()}
    assert receipt.model_parameters == sum(tied.values())
    own = {n for n, _ in bound.model.named_parameters()}
    differ = sum(int((v != was[n]).sum()) for n, v in weights(bound).items() if n in own)
    assert receipt.changed_weights == differ > 0
    assert receipt.trained_b_rows == deltas.counts().trained_b_rows
    assert receipt.neurons == len(chosen(bound))
    assert receipt.everything == (form == AllParameters())
    assert not receipt.everything or receipt.trained_with_a == receipt.model_parameters
    check_receipt(receipt, bound, chosen(bound), form, before)
    undo(bound, deltas.sparse())
    check_receipt(receipt, bound, chosen(bound), form)  # the same base, with the change taken out
    with pytest.raises(ReceiptError, match="another base model"):
        check_receipt(receipt, build(name, torch.bfloat16), chosen(bound), form)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_weight_decay_on_a_frozen_row_is_caught(name, form):
    """The classic leak: an optimiser that was handed the model's own weights too."""

    def decay(bound, deltas):
        one = deltas.parts[0].slices
        outside = min(set(range(one.weight.shape[one.dim])) - set(one.index))
        with torch.no_grad():
            row = one.weight.select(one.dim, outside)
            row.mul_(1 - 1e-3)

    bound = build(name)
    before, deltas = tune(bound, form, decay)
    with pytest.raises(ReceiptError, match=deltas.parts[0].slices.name):
        receipt_of(bound, form, before, deltas)


def test_a_chosen_row_that_moved_by_other_hands_is_caught_at_the_merge(form):
    def decay(bound, deltas):
        deltas.parts[0].slices.weight.data.mul_(1 - 1e-3)

    bound = build("llama")
    with pytest.raises(ReceiptError, match="changed while its neurons were being trained"):
        tune(bound, form, decay)


def test_a_forgotten_fused_offset_is_caught(form):
    """The up half written over the gate half: right values, wrong rows of the same weight."""
    bound = build("phi3")
    before, deltas = tune(bound, form)
    receipt_of(bound, form, before, deltas)
    delta = deltas.sparse()
    undo(bound, delta)
    change = next(c for c in delta.changes if "gate_up" in c.name)
    width = 24
    shifted = torch.tensor([i - width + 1 if i >= width else i for i in change.index])
    assert set(shifted.tolist()) - set(change.index)  # some rows were never chosen
    bound.model.get_parameter(change.name).data.index_copy_(0, shifted, change.new)
    with pytest.raises(ReceiptError, match="gate_up_proj"):
        verify(before, seal(bound, chosen(bound), form))


def test_a_tied_embedding_that_moved_is_caught_once(form):
    config = hf.LlamaConfig(**{**TEXT, **IDS, "tie_word_embeddings": True})
    bound = bind(hf.LlamaForCausalLM(config).eval())

    def nudge(bound, deltas):
        bound.model.get_output_embeddings().weight.data[3, 3] += 1e-4

    before, deltas = tune(bound, form, nudge)
    assert not any("lm_head" in name for name in before.tensors)  # one tensor, one line
    with pytest.raises(ReceiptError, match=r"1 of \d+ tensors.*embed_tokens"):
        receipt_of(bound, form, before, deltas)


def test_a_bias_or_a_buffer_that_moved_is_caught(form):
    bound = build("gpt2")
    before, _ = tune(bound, form)
    bound.model.transformer.h[1].mlp.c_fc.bias.data[0] += 1e-4
    with pytest.raises(ReceiptError, match=r"h\.1\.mlp\.c_fc\.bias"):
        verify(before, seal(bound, chosen(bound), form))
    bound = build("gpt2")
    bound.model.register_buffer("extra", torch.zeros(3))
    before = seal(bound, chosen(bound), form)
    bound.model.extra[1] = 1.0
    with pytest.raises(ReceiptError, match="extra"):
        verify(before, seal(bound, chosen(bound), form))


def test_hashing_in_chunks_gives_what_hashing_at_once_gives(monkeypatch):
    torch.manual_seed(0)
    weight = torch.randn(37, 11)
    cases = [(0, ()), (0, (0, 5, 36)), (1, (2, 10))]
    whole = [fingerprint(weight, dim, index) for dim, index in cases]
    monkeypatch.setattr(slicing, "_CHUNK", 25)  # two rows at a time
    assert [fingerprint(weight, dim, index) for dim, index in cases] == whole
    assert len(set(whole)) == 3
    for dim, index in cases[1:]:
        inside, outside = weight.clone(), weight.clone()
        inside.index_fill_(dim, torch.tensor(index), 9.0)
        outside.select(dim, 1).fill_(9.0)
        assert fingerprint(inside, dim, index) == fingerprint(weight, dim, index)
        assert fingerprint(outside, dim, index) != fingerprint(weight, dim, index)


def test_the_slices_are_those_that_the_layout_says_neurons_own(form):
    """Two routes to one fact: each slice, changed by hand, moves its own neuron alone."""
    bound = build("phi3")
    acts = []
    reader = bound.model.model.layers[0].mlp.down_proj
    handle = reader.register_forward_pre_hook(lambda _, args: acts.append(args[0].detach()))
    rows = batch(bound)
    bound.model(**rows.inputs)
    one = next(s for s in slices_of(bound, chosen(bound), form.roles) if ".0." in s.name)
    one.write(one.read() + 1.0)
    bound.model(**rows.inputs)
    handle.remove()
    moved = (acts[0] != acts[1]).any(0).any(0).nonzero().flatten().tolist()
    assert moved == [0, 5, 23]

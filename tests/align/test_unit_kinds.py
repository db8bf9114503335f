"""Attention rows and columns and experts' slices train, apply, undo and prove like any neurons."""

from __future__ import annotations

import copy

import pytest
import torch
from align_tiny import batch, build, chosen, cut, weights
from reference import EVERY, masks, train_masked_full, train_masked_lora

from precise_shield.align.delta import DirectUnits, LoraRows, RowLora, tuning
from precise_shield.align.expert_parts import ExpertLora
from precise_shield.align.fit import FitSpec, fit
from precise_shield.align.lowrank import low_rank
from precise_shield.align.receipt import StoredReceipt, make_receipt, seal
from precise_shield.align.sparse import SparseDelta, apply, undo
from precise_shield.core.errors import ConfigError, DeadTapError, ReceiptError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.models.architecture.bind import bind

DENSE = ["gpt2", "llama", "llava", "phi3", "qwen2"]
MOE = ["gpt_oss", "mixtral", "qwen2_moe", "qwen3_moe"]
STEPS, RATE = 5, 1e-2
SPEC = FitSpec(
    epochs=STEPS, batch_size=4, micro_batch=2, learning_rate=RATE, warmup=0.0, reduction="mean",
    schedule="constant", clip=0.1,
)  # fmt: skip
LORA = LoraRows(rank=3, alpha=6.0, dropout=0.0)


def rowed(neurons: NeuronSet) -> NeuronSet:
    """Those that own a row, which a row-masked LoRA can train."""
    return NeuronSet.of({s: ids for s, ids in neurons.units.items() if s.kind != "attention"})


def neurons_for(bound, form):
    return chosen(bound) if isinstance(form, DirectUnits) else rowed(chosen(bound))


def train(bound, neurons, form):
    infos = []
    with tuning(bound, neurons, form, seed=0) as deltas:
        parts = [part for part in deltas.parts if isinstance(part, RowLora)]
        start = {part.slices.name: part.a.detach().clone() for part in parts}
        fit(deltas, lambda epoch: cut(batch(bound, epoch), 2), SPEC, on_step=infos.append)
    return [info.loss for info in infos], start, deltas


def twin(bound):
    return bind(copy.deepcopy(bound.model), units={site.kind for site in bound.sites})


def assert_same(losses, expected, bound, other):
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-6, atol=1e-6)
    assert abs(losses[-1] - losses[0]) > 1e-3
    for name, value in weights(other).items():
        torch.testing.assert_close(weights(bound)[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DENSE + MOE)
def test_the_direct_form_equals_full_gradients_with_a_mask(name):
    """A key's bias moves all scores of a query alike, so its gradient is rounding noise, which
    AdamW turns into steps: where there is one, keys are left out."""
    bound, biased = build(name, every=True), name in {"gpt2", "gpt_oss", "qwen2", "qwen2_moe"}
    other, before = twin(bound), weights(bound)
    neurons = NeuronSet.of(
        {s: u for s, u in chosen(bound).units.items() if not (biased and s.kind == "key")}
    )
    losses, _, _ = train(bound, neurons, DirectUnits())
    expected = train_masked_full(
        other, neurons, lambda step: batch(bound, step), steps=STEPS, lr=RATE, clip=0.1
    )
    assert_same(losses, expected, bound, other)
    moved = {n for n, v in weights(bound).items() if not torch.equal(v, before[n])}
    assert any(n.endswith("bias") for n in moved) == biased


@pytest.mark.parametrize("name", DENSE)
def test_row_masked_lora_on_q_k_and_v_equals_lora_with_a_masked_gradient(name):
    bound = build(name, every=True)
    other, neurons = twin(bound), rowed(chosen(bound))
    losses, start, _ = train(bound, neurons, LORA)
    expected = train_masked_lora(
        other, neurons, lambda step: batch(bound, step), start,
        rank=3, alpha=6.0, steps=STEPS, lr=RATE, clip=0.1,
    )  # fmt: skip
    assert_same(losses, expected, bound, other)


@pytest.mark.parametrize("form", [LORA, DirectUnits()], ids=["lora", "direct"])
@pytest.mark.parametrize("name", ["gpt2", "gpt_oss", "phi3", "qwen2", "qwen3_moe"])
def test_training_moves_the_chosen_slices_and_not_one_bit_more(name, form):
    """The mask is written by hand, row by row, and must cover every bit that moved."""
    bound = build(name, every=True)
    neurons, before = neurons_for(bound, form), weights(bound)
    train(bound, neurons, form)
    roles = EVERY if isinstance(form, DirectUnits) else form.roles
    allowed, moved = masks(bound, neurons, roles), 0
    for key, value in weights(bound).items():
        differs = value != before[key]
        moved += int(differs.sum())
        outside = differs & ~allowed[key].bool() if key in allowed else differs
        assert not outside.any(), key
    assert moved > 0


@pytest.mark.parametrize("form", [LORA, DirectUnits()], ids=["lora", "direct"])
@pytest.mark.parametrize("name", DENSE + MOE)
def test_merging_gives_the_model_that_was_trained(name, form):
    bound = build(name, every=True)
    rows = batch(bound)
    with torch.no_grad():
        base = bound.model(**rows.inputs).logits
    own = bound.model.get_experts_implementation()
    with tuning(bound, neurons_for(bound, form), form, seed=0) as deltas, torch.no_grad():
        assert torch.equal(bound.model(**rows.inputs).logits, base)
        for parameter in deltas.parameters():
            parameter.normal_(std=0.02)
        inside = bound.model(**rows.inputs).logits
        with deltas.off():
            assert torch.equal(bound.model(**rows.inputs).logits, base)
    assert bound.model.get_experts_implementation() == own
    with torch.no_grad():
        merged = bound.model(**rows.inputs).logits
    torch.testing.assert_close(merged, inside, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, base, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("name", ["gpt_oss", "phi3", "qwen2_moe"])
def test_apply_undo_and_the_receipt_are_bit_exact_through_files(name, dtype, tmp_path):
    bound, fresh = build(name, dtype, every=True), build(name, dtype, every=True)
    form, neurons, base = DirectUnits(), chosen(bound), weights(bound)
    before = seal(bound, neurons, form)
    with tuning(bound, neurons, form, seed=0) as deltas, torch.no_grad():
        bound.model(**batch(bound).inputs)
        for parameter in deltas.parameters():
            parameter.normal_(std=0.1)
    deltas.sparse().save(tmp_path / "delta.safetensors")
    receipt = make_receipt(
        bound, before, deltas.sparse(), form, deltas.counts(), condition="aligned", steps=1,
        learning_rate=1.0, final_loss=None,
    )  # fmt: skip
    StoredReceipt(receipt, before, neurons, form).save(tmp_path / "receipt.json")
    stored = StoredReceipt.load(tmp_path / "receipt.json")
    delta = SparseDelta.load(tmp_path / "delta.safetensors")
    by_hand = sum(int((v != base[n]).sum()) for n, v in weights(bound).items())
    assert receipt.changed_weights == by_hand > 0
    apply(fresh, delta)
    stored.check(fresh)
    assert all(torch.equal(v, weights(bound)[n]) for n, v in weights(fresh).items())
    undo(fresh, delta)
    stored.check(fresh)
    assert all(torch.equal(v, base[n]) for n, v in weights(fresh).items())


@pytest.mark.parametrize(("expert", "unit", "caught"), [(2, 3, True), (1, 1, True), (2, 1, False)])
@pytest.mark.parametrize("name", ["gpt_oss", "mixtral"])
def test_a_neighbour_s_row_that_moved_breaks_the_seal(name, expert, unit, caught):
    """Another unit of the chosen expert, and the chosen unit of another; its own may move."""
    bound = build(name, every=True)
    neurons = NeuronSet.of({Site("text", 1, "expert", 2): [1]})
    before = seal(bound, neurons, DirectUnits())
    for own in bound.sites[Site("text", 1, "expert", expert)].owned:
        kept = own.weight.detach().clone()
        with torch.no_grad():
            at, place = divmod(own.index([unit])[0], own.weight.shape[own.dim])
            own.weight[at].select(own.dim - 1, place)[0] += 1e-3
        assert (seal(bound, neurons, DirectUnits()).digest != before.digest) == caught
        own.weight.data.copy_(kept)


def test_a_delta_of_experts_does_not_fit_another_shape():
    bound, other = build("mixtral", every=True), build("gpt_oss", every=True)
    with tuning(bound, chosen(bound), DirectUnits(), seed=0) as deltas, torch.no_grad():
        bound.model(**batch(bound).inputs)
    with pytest.raises(ReceiptError):
        apply(other, deltas.sparse())


def test_each_expert_has_an_a_of_its_own_and_its_factors_are_no_plain_low_rank_delta():
    bound = build("mixtral", every=True)
    neurons = NeuronSet.of({s: [0, 5] for s in bound.sites if s.kind == "expert" and s.expert < 2})
    _, _, deltas = train(bound, neurons, LORA)
    for part in deltas.parts:
        assert isinstance(part, ExpertLora)
        assert part.a.shape == (2, 3, 16)
        assert part.b.shape == (8, 3)
        assert not torch.equal(part.a[0], part.a[1])
    assert deltas.counts().trained_b_rows == 3 * 8 * 3
    assert deltas.counts().trained_with_a == 3 * (8 * 3 + 2 * 3 * 16)
    assert low_rank(deltas) is None


def test_columns_alone_are_refused_by_row_masked_lora():
    bound = build("llama", every=True)
    with pytest.raises(ConfigError, match=r"text\.0\.attention and 2 other sites own no weight"):
        tuning(bound, chosen(bound), LORA, seed=0).__enter__()


def test_experts_that_never_run_are_missed():
    bound = build("mixtral", every=True)
    neurons = NeuronSet.of({s: [0] for s in bound.sites if s.kind == "expert"})
    with pytest.raises(DeadTapError, match="3 of 3 trained stacks"), tuning(
        bound, neurons, DirectUnits(), seed=0
    ):  # fmt: skip
        pass

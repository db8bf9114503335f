"""Training the chosen neurons: equal to the masked original, and not one bit more."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import transformers as hf
from align_tiny import FAMILIES, KINDS, batch, build, chosen, cut, weights
from reference import train_masked_full, train_masked_lora

from precise_shield.align.delta import (
    AllParameters,
    DirectUnits,
    LoraRows,
    RowLora,
    form_name,
    tuning,
)
from precise_shield.align.fit import FitSpec, fit
from precise_shield.align.slices import slices_of
from precise_shield.align.sparse import undo
from precise_shield.core.errors import (
    ConfigError,
    DeadTapError,
    EmptySetError,
    LayoutMismatchError,
    NumericError,
    ReceiptError,
    UnsupportedModelError,
)
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.models.architecture.bind import bind
from tiny import IDS, TEXT

FORMS = [LoraRows(rank=3, alpha=6.0, dropout=0.0), DirectUnits()]
STEPS, RATE = 6, 1e-2
SPEC = FitSpec(
    epochs=STEPS, batch_size=4, micro_batch=2, learning_rate=RATE, warmup=0.0, reduction="mean",
    schedule="constant", clip=0.1,
)  # fmt: skip


@pytest.fixture(params=KINDS)
def bound(request):
    return build(request.param)


@pytest.fixture(params=FORMS, ids=["lora", "direct"])
def form(request):
    return request.param


def train(bound, form, spec=SPEC, seed=0):
    infos = []
    with tuning(bound, chosen(bound), form, seed=seed) as deltas:
        start = {
            part.slices.name: part.a.detach().clone()
            for part in deltas.parts
            if isinstance(part, RowLora)
        }
        fit(
            deltas,
            lambda epoch: cut(batch(bound, epoch), spec.micro_batch),
            spec,
            on_step=infos.append,
        )
    return infos, start, deltas


def assert_same_training(infos, losses, bound, other, moved):
    assert max(info.grad_norm for info in infos) > SPEC.clip  # clipping had work to do
    torch.testing.assert_close(
        torch.tensor([i.loss for i in infos]), torch.tensor(losses), rtol=1e-6, atol=1e-6
    )
    assert abs(losses[-1] - losses[0]) > 1e-3
    for name, value in other.model.state_dict().items():
        torch.testing.assert_close(bound.model.state_dict()[name], value, rtol=1e-6, atol=1e-6)
    assert moved > 1e-3


@pytest.mark.parametrize("freeze_a", [False, True])
def test_row_masked_lora_equals_lora_with_a_masked_gradient(bound, freeze_a):
    """Two passes a step here, one there; selected rows here, full B and a mask there."""
    form = LoraRows(rank=3, alpha=6.0, dropout=0.0, freeze_a=freeze_a)
    other, before = copy.deepcopy(bound.model), weights(bound)
    infos, start, _ = train(bound, form)
    losses = train_masked_lora(
        bind(other), chosen(bound), lambda step: batch(bound, step), start,
        rank=3, alpha=6.0, steps=STEPS, lr=RATE, clip=0.1, freeze_a=freeze_a,
    )  # fmt: skip
    moved = max(float((bound.model.state_dict()[n] - w).abs().max()) for n, w in before.items())
    assert_same_training(infos, losses, bound, bind(other), moved)


def test_the_direct_form_equals_full_gradients_with_a_mask(bound):
    other, before = copy.deepcopy(bound.model), weights(bound)
    infos, _, _ = train(bound, DirectUnits())
    losses = train_masked_full(
        bind(other), chosen(bound), lambda step: batch(bound, step),
        steps=STEPS, lr=RATE, clip=0.1,
    )  # fmt: skip
    moved = max(float((bound.model.state_dict()[n] - w).abs().max()) for n, w in before.items())
    assert_same_training(infos, losses, bound, bind(other), moved)


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "llava", "qwen3_moe"])
def test_all_parameters_train_as_in_a_plain_loop(name):
    """Embeddings (tied ones once), norms, biases, routers and eyes included; and the way back."""
    bound = build(name, torch.float32 if "moe" in name else torch.float64)
    other, before = copy.deepcopy(bound.model), weights(bound)
    infos, _, deltas = train(bound, AllParameters())
    losses = train_masked_full(
        bind(other), None, lambda step: batch(bound, step), steps=STEPS, lr=RATE, clip=0.1
    )
    moved = {n for n, w in before.items() if not torch.equal(bound.model.state_dict()[n], w)}
    assert_same_training(infos, losses, bound, bind(other), len(moved))
    assert any("norm" in n or "ln_" in n for n in moved)
    assert any("embed" in n or "wte" in n for n in moved)
    assert any("vision" in n or "visual" in n for n in moved) == (name == "llava")
    assert deltas.counts().trained_with_a == sum(p.numel() for p in bound.model.parameters())
    assert all(isinstance(p, torch.nn.Parameter) for p in bound.model.parameters())
    undo(bound, deltas.sparse())
    assert all(torch.equal(value, before[n]) for n, value in weights(bound).items())


def test_training_moves_the_chosen_slices_and_not_one_bit_more(bound, form):
    before = weights(bound)
    decaying = FitSpec(**{**SPEC.__dict__, "weight_decay": 0.1})
    _, _, deltas = train(bound, form, decaying)
    assert any(not torch.equal(value, before[name]) for name, value in weights(bound).items())
    for one in slices_of(bound, chosen(bound), form.roles):
        was = before[one.name].index_select(one.dim, torch.tensor(one.index))
        one.write(was if one.dim == 0 else was.T)
    assert all(torch.equal(value, before[name]) for name, value in weights(bound).items())
    assert set(deltas.sparse().neurons.units) == set(bound.sites)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("form", [*FORMS, AllParameters()], ids=form_name)
def test_merging_gives_the_model_that_was_trained(name, form):
    bound = build(name)
    rows = batch(bound)
    with torch.no_grad():
        base = bound.model(**rows.inputs).logits
    with tuning(bound, chosen(bound), form, seed=0) as deltas, torch.no_grad():
        torch.testing.assert_close(bound.model(**rows.inputs).logits, base, rtol=0, atol=0)
        for parameter in deltas.parameters():
            parameter.normal_(std=0.1)
        inside = bound.model(**rows.inputs).logits
        with deltas.off():
            assert torch.equal(bound.model(**rows.inputs).logits, base)
    with torch.no_grad():
        merged = bound.model(**rows.inputs).logits
    torch.testing.assert_close(merged, inside, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(merged, base, atol=1e-2)


def test_neurons_of_the_vision_tower_train_like_any_others(form):
    bound = bind(build("llava").model, ("text", "vision"))
    neurons = NeuronSet.of({site: [1, 3] for site in bound.sites if site.tower == "vision"})
    before, rows = weights(bound), batch(bound)
    with tuning(bound, neurons, form, seed=0) as deltas:
        result = fit(deltas, lambda epoch: cut(rows, 2), SPEC)
    moved = {n for n, value in weights(bound).items() if not torch.equal(value, before[n])}
    assert result.losses[-1] < result.losses[0]
    assert moved
    assert all("vision_tower" in name for name in moved)
    # LLaVA reads the second-to-last vision layer, so the last one's neurons cannot learn.
    assert not any("layers.1" in name for name in moved)


def test_a_failed_run_gives_the_model_back_as_it_came(bound, form):
    bound.model.get_input_embeddings().weight.requires_grad_(False)
    flags = {name: p.requires_grad for name, p in bound.model.named_parameters()}
    before, rows = weights(bound), batch(bound)

    def hooks():
        return sum(len(m._forward_hooks) for m in bound.model.modules())

    bound.model(**rows.inputs)  # transformers may install hooks of its own on a first run
    own = hooks()
    with pytest.raises(RuntimeError, match="out of memory"):
        with tuning(bound, chosen(bound), form, seed=0) as deltas:
            assert hooks() > own
            assert not any(p.requires_grad for p in bound.model.parameters())
            for parameter in deltas.parameters():
                parameter.data.normal_()
            bound.model(**rows.inputs)
            raise RuntimeError("out of memory, say")
    assert all(torch.equal(value, before[name]) for name, value in weights(bound).items())
    assert {n: p.requires_grad for n, p in bound.model.named_parameters()} == flags
    assert len(set(flags.values())) == 2
    assert hooks() == own
    with pytest.raises(ReceiptError, match="nothing has been merged"):
        deltas.sparse()


def test_a_delta_that_is_not_finite_is_not_merged(form):
    bound = build("llama")
    before = weights(bound)
    with pytest.raises(NumericError, match="nothing was merged"):
        with tuning(bound, chosen(bound), form, seed=0) as deltas:
            bound.model(**batch(bound).inputs)
            list(deltas.parameters())[-1].data[0, 0] = math.nan
    assert all(torch.equal(value, before[name]) for name, value in weights(bound).items())


def test_the_parameters_are_exactly_the_chosen_neurons(bound):
    """Counted by hand from the widths of the tiny models: hidden 16, rank 3."""
    neurons = chosen(bound)
    projections = 1 if bound.model.config.model_type == "gpt2" else 2
    matrices = 3 * (1 if bound.model.config.model_type in ("gpt2", "phi3") else 2)
    with pytest.raises(DeadTapError), tuning(bound, neurons, FORMS[0], seed=0) as lora:
        assert lora.counts().trained_b_rows == len(neurons) * projections * 3
        assert lora.counts().trained_with_a == lora.counts().trained_b_rows + matrices * 3 * 16
    with pytest.raises(DeadTapError), tuning(bound, neurons, DirectUnits(), seed=0) as direct:
        assert direct.counts().trained_b_rows == len(neurons) * (projections + 1) * 16
    frozen = LoraRows(rank=3, freeze_a=True)
    with pytest.raises(DeadTapError), tuning(bound, neurons, frozen, seed=0) as rows_only:
        assert rows_only.counts().trained_with_a == lora.counts().trained_b_rows


def test_a_starts_as_peft_starts_it_and_depends_on_seed_and_weight_alone():
    bound = build("llama")

    def start(neurons, seed):
        with pytest.raises(DeadTapError), tuning(bound, neurons, FORMS[0], seed=seed) as deltas:
            pass
        return {part.slices.name: part.a.detach() for part in deltas.parts}

    one, other = start(chosen(bound), 0), start(chosen(bound), 1)
    top = start(NeuronSet.of({Site("text", 2): [4]}), 0)
    for name, a in one.items():
        assert a.abs().max() <= 1 / math.sqrt(16)  # kaiming-uniform with a = sqrt(5)
        assert not torch.equal(a, other[name])
    assert len({float(a.sum()) for a in one.values()}) == len(one)  # gate and up differ
    assert all(torch.equal(a, one[name]) for name, a in top.items())


@pytest.mark.parametrize("master", ["float32", "weight"])
def test_bfloat16_weights_train_with_parameters_of_either_dtype(master, form):
    bound = build("llama", torch.bfloat16)
    form = type(form)(**{**form.__dict__, "master": master})
    infos, _, deltas = train(bound, form)
    assert infos[-1].loss != infos[0].loss
    kept = torch.float32 if master == "float32" else torch.bfloat16
    assert {p.dtype for p in deltas.parameters()} == {kept}
    assert {p.dtype for p in bound.model.parameters()} == {torch.bfloat16}
    assert deltas.sparse().changed_weights() > 0


def test_merged_bfloat16_weights_are_the_sum_rounded_once():
    """No bfloat16 number is nearer to the exact sum than the one that was written."""
    bound = build("llama", torch.bfloat16)
    with tuning(bound, chosen(bound), DirectUnits(), seed=0) as deltas:
        for parameter in deltas.parameters():
            parameter.data.normal_()
        bound.model(**batch(bound).inputs)
    better = 0
    for change, part in zip(deltas.sparse().changes, deltas.parts, strict=True):
        exact = change.old.double() + part.d.detach().double()
        off = (change.new.double() - exact).abs()
        for away in (torch.inf, -torch.inf):
            beside = torch.nextafter(change.new, torch.tensor(away, dtype=torch.bfloat16))
            assert (off <= (beside.double() - exact).abs()).all()
        twice = (change.old + part.d.detach().bfloat16()).double()
        better += int((off < (twice - exact).abs()).sum())
    assert better > 0


def test_dropout_is_on_in_training_and_off_elsewhere():
    bound, rows = build("llama"), batch(build("llama"))
    with tuning(bound, chosen(bound), LoraRows(dropout=0.5), seed=0) as deltas, torch.no_grad():
        for parameter in deltas.parameters():
            parameter.normal_()
        first, second = (bound.model(**rows.inputs).logits for _ in range(2))
        assert torch.equal(first, second)
        deltas.train()
        first, second = (bound.model(**rows.inputs).logits for _ in range(2))
        assert not torch.equal(first, second)


def test_a_weight_that_two_layers_share_learns_once(form):
    bound = build("llama")
    layers = bound.model.model.layers
    layers[2].mlp = layers[0].mlp  # one module, two places
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight  # two modules, one weight
    bound = bind(bound.model)
    neurons = NeuronSet.of({Site("text", 0): [1, 3], Site("text", 2): [3, 7]})
    up = next(s for s in slices_of(bound, neurons, ("up",)))
    assert up.index == (1, 3, 7)
    assert len(up.modules) == 2
    rows = batch(bound)
    with tuning(bound, neurons, form, seed=0) as deltas, torch.no_grad():
        for parameter in deltas.parameters():
            parameter.normal_(std=0.1)
        inside = bound.model(**rows.inputs).logits
    with torch.no_grad():
        torch.testing.assert_close(bound.model(**rows.inputs).logits, inside, rtol=1e-5, atol=1e-5)
    assert deltas.sparse().changed_weights() == sum(c.old.numel() for c in deltas.sparse().changes)


def test_a_weight_tied_to_something_else_is_refused(form):
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**{**TEXT, **IDS, "intermediate_size": 64}))
    model.model.layers[0].mlp.up_proj.weight = model.get_input_embeddings().weight
    bound = bind(model)
    with pytest.raises(LayoutMismatchError, match=r"tied to Embedding\.weight"):
        with tuning(bound, NeuronSet.of({Site("text", 0): [1]}), form, seed=0):
            pass


def test_what_cannot_be_trained_is_refused_by_name(form):
    bound = build("gpt2")
    with pytest.raises(EmptySetError, match="no neurons"):
        with tuning(bound, NeuronSet.of({}), form, seed=0):
            pass
    with pytest.raises(EmptySetError, match="roles gate"):
        with tuning(bound, chosen(bound), DirectUnits(parts=("gate",)), seed=0):
            pass
    with pytest.raises(LayoutMismatchError, match=r"no site text\.9\.ffn"):
        with tuning(bound, NeuronSet.of({Site("text", 9): [0]}), form, seed=0):
            pass
    with pytest.raises(LayoutMismatchError, match="neuron 24"):
        with tuning(bound, NeuronSet.of({Site("text", 0): [24]}), form, seed=0):
            pass
    with pytest.raises(ConfigError, match="rank 0"):
        LoraRows(rank=0)
    bound.model.transformer.h[0].mlp.c_fc.weight.requires_grad_(False)
    bound.model.transformer.h[0].mlp.c_fc.weight.data = torch.zeros(16, 24, dtype=torch.int8)
    with pytest.raises(UnsupportedModelError, match=r"torch\.int8"):
        with tuning(bound, chosen(bound), form, seed=0):
            pass

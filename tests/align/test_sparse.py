"""A delta file puts a change in and takes it out again, bit for bit, or refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from align_tiny import KINDS, batch, build, chosen, weights
from safetensors import safe_open
from safetensors.torch import save_file

from precise_shield.align.delta import AllParameters, DirectUnits, LoraRows, form_name, tuning
from precise_shield.align.sparse import SparseDelta, applied, apply, undo
from precise_shield.core.errors import ReceiptError, StoreError
from precise_shield.core.sites import NeuronSet, Site

FORMS = [LoraRows(rank=3, dropout=0.0), DirectUnits()]


@pytest.fixture(params=FORMS, ids=["lora", "direct"])
def form(request):
    return request.param


def tuned(bound, form, neurons=None):
    with tuning(bound, neurons or chosen(bound), form, seed=0) as deltas:
        for parameter in deltas.parameters():
            parameter.data.normal_(std=0.1)
        bound.model(**batch(bound).inputs)
    return deltas.sparse()


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("form", [*FORMS, AllParameters()], ids=form_name)
def test_apply_and_undo_are_bit_exact_through_a_file(name, dtype, form, tmp_path):
    trained, fresh = build(name, dtype), build(name, dtype)
    base = weights(fresh)
    tuned(trained, form).save(tmp_path / "delta.safetensors")
    delta = SparseDelta.load(tmp_path / "delta.safetensors")
    apply(fresh, delta)
    assert equal(weights(fresh), weights(trained))
    assert not equal(weights(fresh), base)
    undo(fresh, delta)
    assert equal(weights(fresh), base)
    undo(trained, delta)
    assert equal(weights(trained), base)


def test_adding_and_subtracting_would_not_have_been_exact():
    """Why old and new are both kept."""
    bound = build("llama", torch.bfloat16)
    delta = tuned(bound, DirectUnits())
    back = torch.cat([(c.new - (c.new - c.old)).flatten() for c in delta.changes])
    assert not torch.equal(back, torch.cat([c.old.flatten() for c in delta.changes]))


def test_a_file_holds_everything_the_delta_knows(form, tmp_path):
    bound = build("phi3")
    delta = dataclasses.replace(tuned(bound, form), recipe={"lr": 1e-3, "data": ["a", "b"]})
    delta.save(tmp_path / "delta.safetensors")
    back = SparseDelta.load(tmp_path / "delta.safetensors")
    assert back.neurons == delta.neurons
    assert (back.form, back.rank, back.recipe) == (delta.form, delta.rank, delta.recipe)
    for one, other in zip(delta.changes, back.changes, strict=True):
        assert (one.name, one.dim, one.index, one.base) == (
            other.name, other.dim, other.index, other.base,
        )  # fmt: skip
        assert torch.equal(one.old, other.old)
        assert torch.equal(one.new, other.new)
    assert len(delta.changes) == (3 if isinstance(form, LoraRows) else 6)
    size = (tmp_path / "delta.safetensors").stat().st_size
    assert size < sum(v.nbytes for v in weights(bound).values())


def test_changed_weights_are_counted_one_by_one(form):
    bound = build("gpt2")
    before = weights(bound)
    delta = tuned(bound, form)
    by_hand = sum(int((v != before[n]).sum()) for n, v in weights(bound).items())
    assert delta.changed_weights() == by_hand > 0


def test_a_delta_is_refused_where_it_does_not_belong(form):
    bound, other, base = build("llama"), build("llama"), build("llama")
    delta = tuned(bound, form)
    change = delta.changes[-1]
    with torch.no_grad():  # one value of one slice differs, in the last weight
        unit = [0, 0]
        unit[change.dim] = change.index[-1]
        other.model.get_parameter(change.name)[tuple(unit)] += 1e-6
    before = weights(other)
    with pytest.raises(ReceiptError, match=r"1 of \d+ values in the slices of .*another base"):
        apply(other, delta)
    assert equal(weights(other), before)  # nothing was written on the way to the last weight
    with pytest.raises(ReceiptError, match="not applied to this model"):
        undo(base, delta)
    with pytest.raises(ReceiptError, match="already applied"):
        apply(bound, delta)
    with pytest.raises(ReceiptError, match=r"Load the model in torch\.float32"):
        apply(build("llama", torch.bfloat16), delta)
    with pytest.raises(ReceiptError, match="has no weight"):
        apply(build("gpt2"), delta)
    apply(base, delta)
    assert equal(weights(base), weights(bound))


def test_minus_zero_is_not_zero():
    bound = build("llama")
    delta = tuned(bound, DirectUnits())
    undo(bound, delta)
    zeroed = dataclasses.replace(
        delta, changes=tuple(dataclasses.replace(c, old=c.old * 0.0) for c in delta.changes)
    )
    with torch.no_grad():
        for change in zeroed.changes:
            weight = bound.model.get_parameter(change.name)
            weight.index_fill_(change.dim, torch.tensor(change.index), 0.0)
    signs = [torch.signbit(c.old).any() for c in zeroed.changes]
    assert any(signs)
    with pytest.raises(ReceiptError):
        apply(bound, zeroed)


def test_an_applied_block_leaves_the_base_model_however_it_ends(form):
    bound, fresh = build("llama"), build("llama")
    delta, base = tuned(bound, form), weights(fresh)
    with applied(fresh, delta):
        assert equal(weights(fresh), weights(bound))
    assert equal(weights(fresh), base)
    with pytest.raises(RuntimeError, match="boom"), applied(fresh, delta):
        raise RuntimeError("boom")
    assert equal(weights(fresh), base)


def test_deltas_of_different_neurons_compose_and_come_off_in_any_order(form):
    bound = build("llama")
    base = weights(bound)
    first = tuned(bound, form, NeuronSet.of({Site("text", 0): [1, 2]}))
    second = tuned(bound, form, NeuronSet.of({Site("text", 0): [3], Site("text", 1): [1]}))
    undo(bound, first)
    undo(bound, second)
    assert equal(weights(bound), base)
    apply(bound, second)
    assert not equal(weights(bound), base)


def test_files_that_are_no_delta_are_refused(tmp_path):
    with pytest.raises(StoreError, match="cannot be read"):
        SparseDelta.load(tmp_path / "missing.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    with pytest.raises(StoreError, match="cannot be read"):
        SparseDelta.load(tmp_path / "noise.safetensors")
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(StoreError, match="no delta file"):
        SparseDelta.load(tmp_path / "other.safetensors")
    delta = tuned(build("llama"), DirectUnits())
    delta.save(tmp_path / "delta.safetensors")
    with pytest.raises(StoreError, match="would be overwritten"):
        delta.save(tmp_path / "delta.safetensors")
    with safe_open(tmp_path / "delta.safetensors", framework="pt") as file:
        header = {k: v.replace('"schema_version": 1', '"schema_version": 9')
                  for k, v in file.metadata().items()}  # fmt: skip
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "later.safetensors", metadata=header)
    with pytest.raises(StoreError, match="has schema 9"):
        SparseDelta.load(tmp_path / "later.safetensors")
    assert list(tmp_path.glob("*.part")) == []

"""Promises kept for every supported architecture. Each test compares two independent routes."""

import copy

import pytest
import torch

from precise_shield.core.errors import DeadTapError, LayoutMismatchError, UnsupportedModelError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.intervene.edits import intervening, scale, suppress
from precise_shield.models.architecture.bind import bind
from precise_shield.models.architecture.layouts import (
    FeedForward,
    Layout,
    known_model_types,
    layouts_for,
    register,
)
from precise_shield.models.passes.taps import tapped
from tiny import BUILDERS, SEEING_CONFIGS, TEXT_CONFIGS, inputs, tiny

UNITS = (0, 5, 17)


@pytest.fixture(params=sorted({*TEXT_CONFIGS, *SEEING_CONFIGS}))
def model(request):
    return tiny(request.param)


def towers(model):
    return tuple(layouts_for(model.config.model_type))


def logits(model):
    with torch.no_grad():
        return model(**inputs(model)).logits


def hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def seen(model, bound):
    """The neurons of every site in one forward pass."""
    acts = {}
    with torch.no_grad(), tapped(bound, lambda site, a: acts.update({site: a.clone()})):
        model(**inputs(model))
    return acts


def chosen(bound):
    return NeuronSet.of({site: UNITS for site in bound.sites})


def test_every_row_of_the_table_has_a_tiny_model():
    assert sorted(BUILDERS) == list(known_model_types())


def test_every_tower_of_the_table_is_bound(model):
    bound = bind(model, towers(model))
    assert {site.tower for site in bound.sites} == set(towers(model))
    assert ("vision" in towers(model)) == (model.config.model_type in SEEING_CONFIGS)


def test_suppressing_by_hook_equals_deleting_the_weights(model):
    """A hook on activations and surgery on weights are different code for the same fact."""
    bound, cut = bind(model, towers(model)), copy.deepcopy(model)
    for spot in bind(cut, towers(cut)).sites.values():
        down = next(own for own in spot.owned if own.role == "down")
        down.weight.data.index_fill_(down.dim, torch.tensor(UNITS), 0.0)

    def zero(_, acts):
        return acts.index_fill(-1, torch.tensor(UNITS), 0.0)

    with tapped(bound, zero):
        by_hook = logits(model)
    torch.testing.assert_close(by_hook, logits(cut))
    assert not torch.allclose(by_hook, logits(model), atol=1e-5)  # the edit did do something


def test_the_library_suppression_equals_deleting_the_weights(model):
    bound, cut = bind(model), copy.deepcopy(model)
    for spot in bind(cut).sites.values():
        down = next(own for own in spot.owned if own.role == "down")
        down.weight.data.index_fill_(down.dim, torch.tensor(UNITS), 0.0)
    with intervening(bound, chosen(bound), suppress):
        by_hook = logits(model)
    torch.testing.assert_close(by_hook, logits(cut))
    assert not torch.allclose(by_hook, logits(model), atol=1e-5)


def test_scaling_by_one_changes_nothing(model):
    bound = bind(model)
    with intervening(bound, chosen(bound), scale(1.0)):
        edited = logits(model)
    assert torch.equal(edited, logits(model))
    with intervening(bound, chosen(bound), scale(3.0)):
        assert not torch.equal(logits(model), edited)


def test_blocks_nest_and_the_inner_one_leaves_the_outer_one_on(model):
    bound = bind(model)
    neurons = chosen(bound)
    with intervening(bound, neurons, scale(8.0)):
        eight = logits(model)
    with intervening(bound, neurons, scale(2.0)):
        two = logits(model)
    with intervening(bound, neurons, scale(2.0)):
        with intervening(bound, neurons, scale(4.0)):
            assert torch.equal(logits(model), eight)  # powers of two: exact in floats
        assert torch.equal(logits(model), two)
    assert not torch.equal(two, eight)


def test_hooks_are_gone_after_an_exception(model):
    bound, before = bind(model), hooks(model)
    with pytest.raises(RuntimeError, match="boom"), tapped(bound, lambda *_: None):
        assert hooks(model) == before + len(bound.sites)
        raise RuntimeError("boom")
    assert hooks(model) == before


def test_a_block_without_a_forward_pass_is_an_error(model):
    bound, before = bind(model), hooks(model)
    with pytest.raises(DeadTapError, match="never fired"), tapped(bound, lambda *_: None):
        pass
    assert hooks(model) == before


def test_an_owned_row_into_a_unit_moves_that_unit_and_no_other(model):
    """Poking the row that a slice claims must show at one entry of the vector that is read."""
    bound = bind(model, towers(model))
    for tower in towers(model):
        site = min(site for site in bound.sites if site.tower == tower)
        before = seen(model, bound)[site]
        rows = [own for own in bound.sites[site].owned if own.role != "down"]
        gated = layouts_for(model.config.model_type)[tower].ffn
        assert len(rows) == (2 if gated.fused or gated.gate else 1)
        for own in rows:
            for unit in (1, bound.sites[site].width - 1):
                kept = own.weight.detach().clone()
                with torch.no_grad():
                    own.weight.select(own.dim, own.offset + unit).add_(1.0)
                moved = (seen(model, bound)[site] - before).flatten(0, -2).abs().amax(0)
                own.weight.data.copy_(kept)
                assert moved.nonzero().flatten().tolist() == [unit]


def test_gate_and_up_are_told_apart(model):
    """A unit is `act(gate) * up`: it follows its up row in proportion, its gate row does not."""
    bound = bind(model)
    site = min(bound.sites)
    rows = {own.role: own for own in bound.sites[site].owned}
    if "gate" not in rows:
        assert model.config.model_type == "gpt2"
        return
    before = seen(model, bound)[site][..., 3]
    doubled = {}
    for role in ("gate", "up"):
        row = rows[role].weight.data.select(rows[role].dim, rows[role].offset + 3)
        row *= 2
        doubled[role] = seen(model, bound)[site][..., 3]
        row /= 2
    torch.testing.assert_close(doubled["up"], 2 * before)
    assert not torch.allclose(doubled["gate"], 2 * before, rtol=1e-3)


def test_column_norms_equal_what_a_unit_writes_alone(model):
    """Feed the projection a one-hot vector and measure what comes out."""
    for spot in bind(model, towers(model)).sites.values():
        with torch.no_grad():
            alone = spot.reader(torch.eye(spot.width)) - spot.reader(torch.zeros(1, spot.width))
        torch.testing.assert_close(
            spot.column_norms().float(), alone.norm(dim=1), atol=1e-5, rtol=1e-4
        )
        assert spot.column_norms().shape == (spot.width,)


def test_owned_weights_are_named_as_in_the_model(model):
    named = dict(model.named_parameters())
    for spot in bind(model, towers(model)).sites.values():
        for own in spot.owned:
            assert named[own.name] is own.weight


@pytest.mark.parametrize("model_type", sorted(SEEING_CONFIGS))
def test_the_two_towers_are_seen_apart(model_type):
    model = tiny(model_type)
    bound = bind(model, ("text", "vision"))
    acts = seen(model, bound)
    tokens = inputs(model)["input_ids"].shape[1]
    for site, got in acts.items():
        if site.tower == "text":
            assert got.shape[-2:] == (tokens, 24)
        else:
            assert got.shape[-1] == bound.sites[site].width != 24
    readers = [id(spot.reader) for spot in bound.sites.values()]
    assert len(set(readers)) == len(readers)


@pytest.mark.parametrize("model_type", sorted(SEEING_CONFIGS))
def test_every_text_site_fires_for_a_prompt_without_a_picture(model_type):
    model = tiny(model_type)
    ids = torch.arange(3, 11).view(1, -1)
    fired = []
    with torch.no_grad(), tapped(bind(model), lambda site, _: fired.append(site)):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert fired == sorted(bind(model).sites)


def test_cross_attention_blocks_are_left_out():
    assert sorted(bind(tiny("mllama")).sites) == [Site("text", 0), Site("text", 2)]


def test_an_unknown_architecture_says_what_to_do():
    with pytest.raises(UnsupportedModelError, match="Did you mean 'llama'"):
        layouts_for("lama")


def test_a_second_registration_is_refused():
    with pytest.raises(ValueError, match="already registered"):
        register("llama", text=Layout("elsewhere"))
    assert layouts_for("llama")["text"].layers == "model.layers"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (Layout("model.blocks"), "has no 'model.blocks'"),
        (Layout("model.layers", FeedForward(down="mlp.c_proj")), "has no 'mlp.c_proj'"),
        (
            Layout("model.layers", FeedForward(gate=None, up="mlp.gate_proj", fused=True)),
            "expected 2 x 24",
        ),
        (Layout("model.layers", FeedForward(down="self_attn.o_proj")), "makes 24 values but"),
    ],
)
def test_a_row_that_does_not_describe_the_model_is_refused(monkeypatch, row, sentence):
    monkeypatch.setattr(
        "precise_shield.models.architecture.bind.layouts_for", lambda _: {"text": row}
    )
    with pytest.raises(LayoutMismatchError, match=sentence):
        bind(tiny("llama"))


def test_a_tower_that_the_model_lacks_is_refused():
    with pytest.raises(LayoutMismatchError, match="no vision tower"):
        bind(tiny("llama"), ("vision",))


def test_sites_of_another_model_are_refused():
    with pytest.raises(LayoutMismatchError, match=r"no site text.9.ffn"):
        bind(tiny("llama")).only([Site("text", 9)])

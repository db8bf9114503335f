"""Promises kept for every kind of unit in every architecture, each by two independent routes."""

import copy

import pytest
import torch
import transformers as hf
from torch.nn import functional as F

from precise_shield.core.errors import DeadTapError, LayoutMismatchError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.intervene.edits import intervening, scale, suppress
from precise_shield.models.architecture.bind import bind, kinds_of
from precise_shield.models.architecture.layouts import Attention, Experts, Layout, layouts_for
from precise_shield.models.architecture.units import unit_major
from precise_shield.models.passes.taps import tapped
from tiny import BUILDERS, IDS, MOE_CONFIGS, TEXT, build, inputs, tiny

UNITS = (0, 3, 7)


@pytest.fixture(params=sorted(BUILDERS))
def model(request):
    return tiny(request.param)


def whole(model, kinds=None):
    towers = tuple(layouts_for(model.config.model_type))
    return bind(model, towers, kinds or kinds_of(model, towers))


def logits(model):
    with torch.no_grad():
        return model(**inputs(model)).logits


def seen(model, bound, edit=lambda site, acts: None):
    acts = {}

    def fn(site, a):
        acts[site] = a.clone()
        return edit(site, a)

    with torch.no_grad(), tapped(bound, fn):
        model(**inputs(model))
    return acts


def hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def of_kind(bound, kind):
    return {site: spot for site, spot in bound.sites.items() if site.kind == kind}


def rows_of(own, units):
    """Views of the rows or columns of one weight that units own, taken out by hand."""
    for position in own.index(units):
        weight, dim = own.weight.data, own.dim
        if weight.dim() == 3:
            expert, position = divmod(position, weight.shape[dim])
            weight, dim = weight[expert], dim - 1
        yield weight.select(dim, position)


def delete(model, site):
    """Surgery: take UNITS out of every weight that makes them, or that they write with."""
    for own in bind(model, (site.tower,), (site.kind,)).sites[site].owned:
        if site.kind in ("query", "key", "value") or own.role in ("down", "out"):
            for row in rows_of(own, UNITS):
                row.zero_()


def test_every_kind_that_a_family_has_is_bound(model):
    kinds = kinds_of(model, layouts_for(model.config.model_type))
    assert {"query", "key", "value", "attention"} < set(kinds)
    assert ("expert" in kinds) == (model.config.model_type in MOE_CONFIGS)
    assert {site.kind for site in whole(model).sites} == set(kinds)


def test_suppression_equals_deleting_the_weights_for_every_kind(model):
    before = logits(model)
    towers = tuple(layouts_for(model.config.model_type))
    for kind in kinds_of(model, towers):
        bound, cut = bind(model, towers, (kind,)), copy.deepcopy(model)
        for site in bound.sites:
            delete(cut, site)
        with intervening(bound, NeuronSet.of({s: UNITS for s in bound.sites}), suppress):
            by_hook = logits(model)
        torch.testing.assert_close(by_hook, logits(cut), msg=lambda m, k=kind: f"{k}: {m}")
        assert not torch.allclose(by_hook, before, atol=1e-5), kind


def test_scaling_by_one_is_bit_exact_and_by_three_is_not(model):
    bound, before = whole(model), logits(model)
    everything = NeuronSet.of({site: UNITS for site in bound.sites})
    with intervening(bound, everything, scale(1.0)):
        assert torch.equal(logits(model), before)
    for kind in {site.kind for site in bound.sites}:
        some = NeuronSet.of({site: UNITS for site in bound.sites if site.kind == kind})
        with intervening(bound, some, scale(3.0)):
            assert not torch.equal(logits(model), before), kind
    assert torch.equal(logits(model), before)


def test_blocks_of_every_kind_nest(model):
    bound = whole(model)
    everything = NeuronSet.of({site: UNITS for site in bound.sites})
    with intervening(bound, everything, scale(8.0)):
        eight = logits(model)
    with intervening(bound, everything, scale(2.0)):
        two = logits(model)
        with intervening(bound, everything, scale(4.0)):
            assert torch.equal(logits(model), eight)
        assert torch.equal(logits(model), two)
    assert not torch.equal(two, eight)


def test_an_exception_leaves_no_hook_and_the_model_s_own_experts(model):
    was = logits(model)  # some families hook themselves in their first pass
    bound, before, own = whole(model), hooks(model), model.get_experts_implementation()
    with pytest.raises(RuntimeError, match="boom"), tapped(bound, lambda _, a: a * 2):
        assert hooks(model) > before
        if of_kind(bound, "expert"):
            assert model.get_experts_implementation() != own
        raise RuntimeError("boom")
    assert hooks(model) == before
    assert model.get_experts_implementation() == own
    assert torch.equal(logits(model), was)


def test_a_block_without_a_forward_pass_is_an_error_for_every_kind(model):
    for kind in kinds_of(model):
        with (
            pytest.raises(DeadTapError, match="never fired"),
            tapped(bind(model, units=(kind,)), lambda *_: None),
        ):
            pass


def test_taps_see_what_the_projections_make_and_read(model):
    """Caught by plain hooks of the test, and multiplied out by hand."""
    bound, caught = whole(model), {}

    def catch(module, args, output):
        caught[module] = (args[0], output)

    readers = {spot.reader for spot in bound.sites.values()}
    handles = [reader.register_forward_hook(catch) for reader in readers]
    acts = seen(model, bound)
    for handle in handles:
        handle.remove()
    for site, spot in bound.sites.items():
        x, y = caught[spot.reader]
        if spot.point == "input":
            torch.testing.assert_close(spot.reader(acts[site]).view_as(y), y)
        elif spot.point == "output":
            own, bias = spot.owned[0], [o for o in spot.owned if o.role.endswith("_bias")]
            made = x @ own.read(range(spot.width)).T
            made = made + (bias[0].read(range(spot.width)).T[0] if bias else 0.0)
            torch.testing.assert_close(acts[site], made, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", sorted(MOE_CONFIGS))
def test_taps_see_each_expert_s_neurons_as_computed_by_hand(model_type):
    """From tokens, router and weights alone; tokens that are not routed count as 0."""
    model = tiny(model_type)
    bound, caught = bind(model, units=("expert",)), {}

    def catch(module, args):
        caught[module] = args

    for stack in {spot.reader for spot in bound.sites.values()}:
        stack.register_forward_pre_hook(catch)
    acts = seen(model, bound)
    routed = []
    for site, spot in bound.sites.items():
        hidden, index, _ = caught[spot.reader]
        number = site.expert
        both = spot.reader.gate_up_proj[number]
        if model_type == "gpt_oss":
            made = hidden @ both + spot.reader.gate_up_proj_bias[number]
            gate, up = made[:, ::2].clamp(max=7.0), made[:, 1::2].clamp(-7.0, 7.0)
            neurons = (up + 1) * gate * torch.sigmoid(1.702 * gate)
        else:
            gate, up = (hidden @ both.T).chunk(2, -1)
            neurons = F.silu(gate) * up
        here = (index == number).any(-1)
        routed.append(int(here.sum()))
        expected = torch.where(here[:, None], neurons, 0.0).view_as(acts[site])
        torch.testing.assert_close(acts[site], expected, rtol=1e-4, atol=1e-5)
    assert 0 < min(routed) + max(routed) < 2 * len(hidden)  # some routed, none by all


def test_an_owned_row_makes_its_unit_and_no_other(model):
    """Poking a row that a slice claims shows at one entry of the first site of its kind."""
    bound = whole(model)
    for kind in ("query", "key", "value", "expert"):
        spots = of_kind(bound, kind)
        busy = [s for s, a in seen(model, bound).items() if s in spots and a.abs().sum() > 0]
        for site in busy[:1] + busy[-1:]:
            spot, only = spots[site], bind(model, (site.tower,), (kind,)).only([site])
            before = seen(model, only)[site]
            for own in (own for own in spot.owned if own.role not in ("down", "out")):
                for unit in (1, spot.width - 1):
                    kept = own.weight.detach().clone()
                    for row in rows_of(own, [unit]):
                        row += 1.0
                    moved = (seen(model, only)[site] - before).flatten(0, -2).abs().amax(0)
                    own.weight.data.copy_(kept)
                    assert moved.nonzero().flatten().tolist() == [unit], (site, own.name)


def test_a_value_unit_feeds_the_columns_that_its_norm_counts(model):
    """Found by pushing one value unit and watching the output projection's input."""
    bound = whole(model, ("value", "attention"))
    for site in list(of_kind(bound, "value"))[:1]:
        spot = bound.sites[site]
        out = Site(site.tower, site.layer, "attention")
        weight = unit_major(
            bound.sites[out].owned[0].weight.detach(), bound.sites[out].owned[0].dim
        )
        norms, quiet = spot.column_norms(), seen(model, bound)[out]
        for unit in (1, spot.width - 1):

            def push(where, acts, unit=unit, site=site):
                one = torch.zeros_like(acts)
                one[..., unit] = 1.0
                return acts + one if where == site else None

            moved = (seen(model, bound, push)[out] - quiet).flatten(0, -2).abs().amax(0) > 1e-4
            fed = moved.nonzero().flatten().tolist()
            assert fed == spot.writes.columns(unit)
            assert norms[unit].item() == pytest.approx(weight[fed].norm().item(), rel=1e-5)
            torch.testing.assert_close(spot.written([unit])[0], weight[fed].sum(0))


def test_column_norms_of_every_kind(model):
    for site, spot in whole(model).sites.items():
        norms = spot.column_norms()
        assert norms.shape == (spot.width,)
        assert norms.dtype == torch.float64
        if site.kind in ("query", "key"):
            assert torch.equal(norms, torch.ones(spot.width, dtype=torch.float64))
        if site.kind == "expert":
            down = spot.reader.down_proj[site.expert].detach().double()
            along = 1 if model.config.model_type == "gpt_oss" else 0
            torch.testing.assert_close(norms, down.norm(dim=along))
        if site.kind == "attention":
            with torch.no_grad():
                alone = spot.reader(torch.eye(spot.width)) - spot.reader(torch.zeros(spot.width))
            torch.testing.assert_close(norms.float(), alone.norm(dim=1), atol=1e-5, rtol=1e-4)


def test_owned_weights_are_named_as_in_the_model_and_never_shared(model):
    named, taken = dict(model.named_parameters()), set()
    for spot in whole(model).sites.values():
        for own in spot.owned:
            assert named[own.name] is own.weight
            mine = {(own.name, own.dim, at) for at in own.index(range(spot.width))}
            assert len(mine) == spot.width
            assert not mine & taken
            taken |= mine


def test_an_expert_without_tokens_is_not_dead(monkeypatch):
    model = tiny("mixtral")
    bound = bind(model, units=("expert",))
    for module in model.modules():
        if type(module).__name__ == "MixtralTopKRouter":
            module.weight.data.zero_()  # ties: the router always picks the same two
    acts = seen(model, bound)
    sums = {site: a.abs().sum().item() for site, a in acts.items() if site.layer == 0}
    assert sorted(v > 0 for v in sums.values()) == [False, False, True, True]
    idle = bind(model, units=("expert",)).only([s for s, v in sums.items() if not v])
    with tapped(idle, lambda _, a: a + 1e3), torch.no_grad():
        assert torch.equal(model(**inputs(model)).logits, logits(model))  # nobody reads it


def test_experts_that_never_ran_are_dead():
    model = tiny("qwen3_moe")
    with (
        pytest.raises(DeadTapError, match=r"text\.0\.expert\.0"),
        tapped(bind(model, units=("expert",)), lambda *_: None),
    ):
        model.get_input_embeddings()(inputs(model)["input_ids"])


def test_a_dense_layer_among_experts_has_ffn_units():
    bound = bind(tiny("qwen3_moe"), units=("ffn", "expert"))
    assert {s.layer for s in bound.sites if s.kind == "ffn"} == {1}
    assert {s.layer for s in bound.sites if s.kind == "expert"} == {0, 2}


@pytest.mark.parametrize(("model_type", "kind"), [("mixtral", "ffn"), ("llama", "expert")])
def test_a_kind_that_the_model_lacks_is_refused_with_what_it_has(model_type, kind):
    with pytest.raises(LayoutMismatchError, match=f"no unit of kind '{kind}' here; it has"):
        bind(tiny(model_type), units=(kind,))


@pytest.mark.parametrize(
    ("model_type", "row", "sentence"),
    [
        ("mixtral", Experts(interleaved=True), "the table says otherwise"),
        ("mixtral", Experts(transposed=True), "the table says otherwise"),
        ("mixtral", Experts(stack="mlp"), "does not go through"),
        ("gpt_oss", Experts(), "the table says otherwise"),
    ],
)
def test_a_row_that_misreads_the_experts_is_refused(monkeypatch, model_type, row, sentence):
    layout = {"text": Layout("model.layers", experts=row)}
    monkeypatch.setattr("precise_shield.models.architecture.bind.layouts_for", lambda _: layout)
    with pytest.raises(LayoutMismatchError, match=sentence):
        bind(tiny(model_type), units=("expert",))


def test_a_row_that_misreads_the_attention_is_refused(monkeypatch):
    fused = Attention(*["self_attn.q_proj"] * 3, fused=True)
    layout = {"text": Layout("model.layers", attention=fused)}
    monkeypatch.setattr("precise_shield.models.architecture.bind.layouts_for", lambda _: layout)
    with pytest.raises(LayoutMismatchError, match="does not come out even"):
        bind(tiny("llama"), units=("query",))


@pytest.mark.parametrize("name", ["gpt2", "llama", "mllama", "olmo2", "phi3", "qwen3_moe"])
def test_queries_keys_and_values_are_told_apart_by_what_the_first_token_can_do(name):
    """It sees itself alone: its query cannot matter, its key moves later tokens, its value all."""
    model = tiny(name)
    bound, ids = bind(model, units=("query", "key", "value", "attention")), torch.arange(3, 9)[None]
    moved = {}
    for kind in ("query", "key", "value", None):
        acts = {}

        def push(site, a, kind=kind, acts=acts):
            acts[site] = a.clone()
            if (site.layer, site.kind) != (0, kind):
                return None
            first = torch.zeros_like(a)
            first[:, 0, 0] = 3.0
            return a + first

        with torch.no_grad(), tapped(bound, push):
            model(input_ids=ids)
        moved[kind] = acts[Site("text", 0, "attention")][0]
    away = {kind: (moved[kind] - moved[None]).abs().amax(1) > 1e-4 for kind in moved}
    assert not away["query"].any()
    assert not away["key"][0]
    assert away["key"][1:].any()
    assert away["value"][0]


def test_a_shared_value_unit_feeds_the_query_heads_of_its_own_group():
    config = hf.LlamaConfig(
        **{**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}, **IDS
    )
    bound = bind(build(config), units=("value", "attention"))
    quiet = seen(bound.model, bound)
    site, out = Site("text", 0, "value"), Site("text", 0, "attention")
    for unit, columns in ((1, [1, 5]), (6, [10, 14])):

        def push(where, acts, unit=unit):
            one = torch.zeros_like(acts)
            one[..., unit] = 1.0
            return acts + one if where == site else None

        moved = (seen(bound.model, bound, push)[out] - quiet[out]).flatten(0, -2).abs().amax(0)
        assert (moved > 1e-4).nonzero().flatten().tolist() == columns
        assert bound.sites[site].writes.columns(unit) == columns

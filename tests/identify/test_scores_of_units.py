"""Scores of attention units and of experts: equal to what whole passes and weights say."""

import pytest
import torch

from precise_shield.core.errors import UnsupportedModelError
from precise_shield.core.records import Cell
from precise_shield.core.sites import Site
from precise_shield.identify.collect import Batch
from precise_shield.identify.deactivation import deactivate
from precise_shield.identify.importance import top_for_harmful
from precise_shield.identify.passes import ATTRIBUTION, SNIP, WANDA
from precise_shield.identify.select import Selection, contrast, universal
from precise_shield.identify.stats import Place, Stats
from precise_shield.models.architecture.bind import bind
from precise_shield.models.passes.taps import tapped
from precise_shield.models.readings.head import hidden_states
from tiny import inputs, tiny

CELL = Cell("en", "text", "harmful")


def one(bound):
    rows = inputs(bound.model, batch=1)
    mask = torch.zeros(rows["input_ids"].shape, dtype=torch.bool)
    mask[:, -3:] = True
    labels = torch.where(mask, rows["input_ids"], -100)
    return Batch(rows, [CELL], torch.tensor([0]), {"response_mean": mask}, labels)


def scored(read, bound, batch):
    found = {}
    read(bound, batch, lambda site, at, rows: found.update({site: rows[0]}))
    return found


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("llama", ("query", "value", "attention")), ("phi3", ("key",)), ("gpt_oss", ("expert",))],
)
def test_exact_deactivation_equals_a_full_forward_pass(name, kinds):
    bound = bind(tiny(name), units=kinds)
    batch = one(bound)
    found = scored(lambda *args: deactivate(*args, tokens=100), bound, batch)
    mask = batch.masks["response_mean"][0]
    for site, spot in bound.sites.items():
        for unit in range(site.layer, spot.width, 5):

            def off(here, acts, site=site, unit=unit):
                if here != site:
                    return None
                edited = acts.clone()
                edited[..., unit] = 0
                return edited

            with torch.no_grad():
                base = hidden_states(bound, batch.inputs)
                with tapped(bound, off):
                    away = (hidden_states(bound, batch.inputs) - base).norm(dim=-1)[0]
            expected = float(away[mask].mean())
            assert float(found[site][unit]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert max(float(row.max()) for row in found.values()) > 1e-2


@pytest.mark.parametrize(
    ("name", "kinds"), [("qwen2", ("query", "attention")), ("mixtral", ("expert",))]
)
def test_attribution_is_the_slope_of_the_answer_s_log_probability(name, kinds):
    """Against a small change of one unit at the three positions, in steps of two per cent."""
    bound = bind(tiny(name), units=kinds)
    batch = one(bound)
    found = scored(ATTRIBUTION.read, bound, batch)
    where = batch.masks["response_mean"]

    def log_p(factor, site, unit):
        def scale(here, acts):
            if here != site:
                return None
            edited = acts.clone()
            edited[..., unit] = torch.where(where, factor * acts[..., unit], acts[..., unit])
            return edited

        with torch.no_grad(), tapped(bound, scale):
            logits = bound.model(**batch.inputs).logits.double().log_softmax(-1)
        picked = logits[0, :-1].gather(1, batch.inputs["input_ids"][0, 1:, None])[:, 0]
        return float(picked[batch.labels[0, 1:] >= 0].sum())

    compared = 0
    for site, rows in found.items():
        unit = int(rows.abs().argmax())
        if float(rows[unit].abs()) > 1e-2:
            slope = (log_p(1.02, site, unit) - log_p(0.98, site, unit)) / 0.04
            assert float(rows[unit]) == pytest.approx(slope, rel=2e-2, abs=1e-3)
            compared += 1
    assert compared >= 3


def test_weights_times_inputs_counts_a_row_of_attention_and_leaves_its_bias_out():
    bound = bind(tiny("qwen2"), units=("query",))
    batch, acts = one(bound), {}
    found = scored(WANDA.read, bound, batch)
    site, spot = next(iter(bound.sites.items()))
    handle = spot.reader.register_forward_pre_hook(lambda _, args: acts.update(x=args[0]))
    with torch.no_grad():
        bound.model(**batch.inputs)
    handle.remove()
    size = acts["x"][batch.masks["response_mean"]].square().mean(0).sqrt()
    expected = spot.reader.weight.abs() @ size
    torch.testing.assert_close(found[site], expected.detach(), rtol=1e-4, atol=1e-5)
    assert spot.reader.bias is not None


@pytest.mark.parametrize("quantity", [WANDA, SNIP], ids=lambda q: q.name)
def test_stacked_weights_have_no_weight_scores(quantity):
    bound = bind(tiny("mixtral"), units=("expert",))
    with pytest.raises(UnsupportedModelError, match=r"text\.0\.expert\.0 has no weight matrix"):
        quantity.read(bound, one(bound), lambda *_: None)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_an_expert_that_an_arm_never_reached_has_no_top_in_it(scope):
    """Its benign units are all 0: the first by number must not be taken out of the harmful top."""
    cells = (Cell("en", "text", "benign"), Cell("en", "text", "harmful"))
    chosen = {}
    for site in (Site("text", 0, "expert", 0), Site("text", 0)):
        stats = Stats({site: torch.ones(10, dtype=torch.float64)}, cells)
        rows = torch.zeros(4, 10)
        rows[2:, 0], rows[2:, 7] = 3.0, 2.0  # the harmful rows, routed here
        folds = torch.arange(4)
        stats.fold_in(Place(site, "response_mean"), rows, torch.tensor([0, 0, 1, 1]), folds)
        found = contrast(stats, ("en", "text"), Selection(p=0.2, scope=scope)).draw(0)
        chosen[site.kind] = found.units.get(site, ())
    assert chosen["expert"] == (0, 7)
    assert chosen["ffn"] == (7,)  # ties of a dense layer's dead units go to the lower index


def test_an_expert_without_a_token_adds_no_unit_to_the_rest_of_the_top_nor_to_universal_ones():
    """All its units score 0, and a dense layer's first by number are what a tie gives."""
    cells = (Cell("en", "text", "benign"), Cell("en", "text", "harmful"))
    choice = Selection(p=0.2, universal=0.5)
    for site, first in ((Site("text", 0, "expert", 0), 0), (Site("text", 0), 2)):
        stats = Stats({site: torch.ones(10, dtype=torch.float64)}, cells)
        place, number = Place(site, "response_mean"), torch.tensor([0, 0, 1, 1])
        stats.fold_in(place, torch.zeros(4, 10), number, torch.arange(4))
        assert len(top_for_harmful(stats, [("en", "text")], choice)) == first
        assert int(universal(stats, site, choice).sum()) == first

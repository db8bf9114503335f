"""Gradient and weight scores, each by a second road that shares no code with the first."""

import pytest
import torch
from torch.nn import functional as F

from precise_shield.core.errors import ConfigError, DataError
from precise_shield.core.records import Cell
from precise_shield.identify.collect import Batch
from precise_shield.identify.passes import ATTRIBUTION, MAGNITUDE, SNIP, WANDA
from precise_shield.models.architecture.bind import bind
from precise_shield.models.passes.taps import tapped
from tiny import TEXT_CONFIGS, inputs, tiny

CELL = Cell("en", "text", "harmful")
FAMILIES = ("llama", "gemma2", "phi3", "gpt2")
assert set(FAMILIES) <= set(TEXT_CONFIGS)


def batch(bound, rows=2):
    given = inputs(bound.model, batch=rows, length=7)
    labels = given["input_ids"].clone()
    labels[:, :4] = -100
    labels[1:, 6:] = -100  # answers of different length
    mask = torch.zeros(labels.shape, dtype=torch.bool)
    mask[:, 3:5] = True
    return Batch(
        given, [CELL] * rows, torch.zeros(rows, dtype=torch.int64), {"response_mean": mask}, labels
    )


def read(quantity, bound, part):
    seen = {}
    quantity.read(bound, part, lambda site, _, rows: seen.update({site: rows}))
    assert seen.keys() == bound.sites.keys()
    return seen


def losses(bound, part):
    """-log p(answer | prompt) of every example, by the model's own logits."""
    logits = bound.model(**part.inputs, use_cache=False).logits[:, :-1]
    labels = part.labels[:, 1:]
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return each.view(labels.shape).sum(1)


@pytest.mark.parametrize("name", FAMILIES)
def test_attribution_is_the_slope_by_the_units_scale_at_the_positions_that_count(name):
    bound = bind(tiny(name).double())
    part, step = batch(bound), 1e-2  # norms compute in float32, so a small step drowns
    seen = read(ATTRIBUTION, bound, part)
    mask = part.masks["response_mean"]
    for site in bound.sites:
        for unit in (0, 11, 23):
            ends = []
            for factor in (1 + step, 1 - step):

                def scaled(here, acts, factor=factor, site=site, unit=unit):
                    if here != site:
                        return None
                    edited = acts.clone()
                    edited[..., unit] = torch.where(mask, factor * acts[..., unit], acts[..., unit])
                    return edited

                with torch.no_grad(), tapped(bound, scaled):
                    ends.append(-losses(bound, part))
            slope = (ends[0] - ends[1]) / (2 * step)
            torch.testing.assert_close(seen[site][:, unit].double(), slope, rtol=1e-2, atol=1e-4)
    assert max(float(rows.abs().max()) for rows in seen.values()) > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_snip_is_the_sum_of_weight_times_weight_gradient_example_by_example(name):
    bound = bind(tiny(name))
    part = batch(bound)
    seen = read(SNIP, bound, part)
    for row in range(2):
        bound.model.zero_grad()
        losses(bound, part)[row].backward()
        for site, spot in bound.sites.items():
            total = torch.zeros(spot.width)
            for own in spot.owned:
                worth = (own.weight * own.weight.grad).abs().sum(1 - own.dim)
                total += worth[own.offset : own.offset + spot.width].detach()
            torch.testing.assert_close(seen[site][row], total, rtol=1e-4, atol=1e-6)
            assert total.std() > 0
    assert not torch.allclose(seen[site][0], seen[site][1])


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_leave_the_models_flags_and_weights_alone(name):
    bound = bind(tiny(name))
    frozen = next(bound.model.parameters())
    frozen.requires_grad_(False)
    for quantity in (ATTRIBUTION, SNIP):
        read(quantity, bound, batch(bound))
    assert not frozen.requires_grad
    assert sum(not weight.requires_grad for weight in bound.model.parameters()) == 1
    assert all(weight.grad is None for weight in bound.model.parameters())
    assert not any(module._forward_hooks for module in bound.model.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_wanda_counts_every_owned_weight_once(name):
    """With the weights of one unit doubled in size, its importance doubles where nothing else
    moves: the last layer's column, whose part is |column| times the root mean square activation.
    """
    bound = bind(tiny(name))
    part = batch(bound)
    site = max(bound.sites)
    spot = bound.sites[site]
    before, acts = read(WANDA, bound, part)[site], {}
    with torch.no_grad(), tapped(bound.only([site]), lambda _, x: acts.update({0: x})):
        bound.backbone(**part.inputs, use_cache=False)
    down = next(own for own in spot.owned if own.role == "down")
    size = acts[0][:, 3:5].square().mean(1).sqrt()
    column = down.weight.detach().abs().sum(1 - down.dim)
    down.weight.data *= 2
    torch.testing.assert_close(read(WANDA, bound, part)[site] - before, size * column)
    for own in spot.owned:
        own.weight.data *= 0
    assert not read(WANDA, bound, part)[site].any()


def test_magnitudes_do_not_cancel_within_an_example():
    bound = bind(tiny("llama"))
    part, acts = batch(bound), {}
    with torch.no_grad(), tapped(bound, lambda site, x: acts.update({site: x})):
        bound.backbone(**part.inputs, use_cache=False)
    for site, rows in read(MAGNITUDE, bound, part).items():
        torch.testing.assert_close(rows, acts[site][:, 3:5].abs().mean(1))
        assert (rows > acts[site][:, 3:5].mean(1).abs() + 1e-6).any()


def test_an_answer_is_needed_for_its_gradient():
    bound = bind(tiny("llama"))
    part = batch(bound)
    with pytest.raises(ConfigError, match="has no labels"):
        ATTRIBUTION.read(bound, Batch(part.inputs, part.cells, part.folds, part.masks), print)
    part.labels[1] = -100
    with pytest.raises(DataError, match=r"cell en/text/harmful has no answer"):
        SNIP.read(bound, part, print)

"""Exact deactivation equals one full forward pass for each unit that is switched off."""

import pytest
import torch

from precise_shield.core.errors import ConfigError, LayoutMismatchError
from precise_shield.core.records import Cell
from precise_shield.identify import deactivation
from precise_shield.identify.collect import Batch, collect
from precise_shield.identify.deactivation import FINAL_HIDDEN, LOGITS, Opened
from precise_shield.models.architecture.bind import bind
from precise_shield.models.passes import decoder
from precise_shield.models.passes.taps import tapped
from precise_shield.models.readings.head import hidden_states
from tiny import SEEING_CONFIGS, TEXT_CONFIGS, inputs, tiny

CELL = Cell("en", "text", "harmful")


def one(bound, length=6):
    rows = inputs(bound.model, batch=1, length=length)
    shape = rows["input_ids"].shape
    last, every = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    last[:, -1], every[:, -3:] = True, True
    masks = {"last_prompt": last, "response_mean": every}
    return Batch(rows, [CELL], torch.tensor([0]), masks)


def fully(bound, batch, site, unit):
    """The distance at each position of the batch, by two whole forward passes."""

    def off(here, acts):
        edited = acts.clone()
        edited[..., unit] = 0
        return edited if here == site else None

    with torch.no_grad():
        base = hidden_states(bound, batch.inputs)
        with tapped(bound, off):
            away = (hidden_states(bound, batch.inputs) - base).norm(dim=-1)[0]
    return {at: float(away[mask[0]].mean()) for at, mask in batch.masks.items()}


@pytest.mark.parametrize("name", sorted({*TEXT_CONFIGS, *SEEING_CONFIGS}))
def test_it_equals_a_full_forward_pass_for_every_architecture(name):
    bound = bind(tiny(name))
    batch, seen = one(bound), {}
    deactivation.deactivate(
        bound, batch, lambda site, at, rows: seen.update({(site, at): rows[0]}), tokens=100
    )
    for site, spot in bound.sites.items():
        for unit in range(site.layer, spot.width, 7):
            for at, distance in fully(bound, batch, site, unit).items():
                assert float(seen[site, at][unit]) == pytest.approx(distance, rel=1e-4, abs=1e-5)
    spread = torch.stack(list(seen.values())).std(1)
    assert (spread > 1e-3).any()  # units do differ by far more than the tolerance


@pytest.mark.parametrize(("name", "quick"), [("llama", True), ("gpt2", True), ("olmo2", False)])
def test_blocks_that_normalise_their_output_run_again(name, quick, monkeypatch):
    bound, used = bind(tiny(name)), []
    subtract = Opened._subtracted

    def counting(self, site, step, units, written):
        used.append(len(units))
        return subtract(self, site, step, units, written)

    monkeypatch.setattr(Opened, "_subtracted", counting)
    deactivation.deactivate(bound, one(bound), lambda *_: None)
    trials = len(bound.sites)
    assert (sum(used) > trials) == quick


def test_it_streams_like_any_quantity_and_the_logits_are_another_representation():
    bound = bind(tiny("llama"))
    parts = [one(bound), one(bound, length=5)]
    hidden = collect(bound, [CELL], parts, quantity=FINAL_HIDDEN)
    logits = collect(bound, [CELL], parts, quantity=LOGITS)
    for site in bound.sites:
        pooled = hidden.at(site, CELL, "last_prompt", "deactivation").pooled()
        assert pooled.count == 2
        other = logits.at(site, CELL, "last_prompt", "deactivation_logits").pooled()
        expected = (
            sum(
                torch.tensor(fully(bound, part, site, 3)["last_prompt"], dtype=torch.float64)
                for part in parts
            )
            / 2
        )
        torch.testing.assert_close(pooled.mean[3], expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(pooled.mean, other.mean, rtol=0.1)


def test_vision_units_and_several_examples_are_refused():
    bound = bind(tiny("llava"), ("vision",))
    with pytest.raises(ConfigError, match=r"not for vision.0.ffn"):
        deactivation.deactivate(bound, one(bound), lambda *_: None)
    bound = bind(tiny("llama"))
    rows = inputs(bound.model, batch=2)
    masks = {"last_prompt": torch.ones_like(rows["input_ids"]).bool()}
    two = Batch(rows, [CELL, CELL], torch.tensor([0, 0]), masks)
    with pytest.raises(ValueError, match="one example at a time"):
        deactivation.deactivate(bound, two, lambda *_: None)


def test_a_family_that_does_more_between_its_blocks_is_refused(monkeypatch):
    """A block that leaves something else each time stands for what cannot be run again."""
    bound = bind(tiny("llama"))
    block = decoder.blocks(bound)[1]
    forward, times = block.forward, []

    def restless(*args, **named):
        times.append(1)
        return forward(*args, **named) * len(times)

    monkeypatch.setattr(block, "forward", restless)
    with pytest.raises(LayoutMismatchError, match="blocks run one by one"):
        deactivation.deactivate(bound, one(bound), lambda *_: None)

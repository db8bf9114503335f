"""Edits change the chosen neurons, for the length of a block, and nothing else."""

import pytest
import torch

from precise_shield.core.errors import DeadTapError, EmptySetError, LayoutMismatchError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.intervene.edits import intervening, replace, scale, suppress
from precise_shield.models.architecture.bind import bind
from precise_shield.models.passes.taps import tapped
from tiny import inputs, tiny

CHOSEN = NeuronSet.of({Site("text", 0): [0, 5], Site("text", 2): [3]})


@pytest.fixture
def bound():
    return bind(tiny("llama"))


def logits(bound):
    with torch.no_grad():
        return bound.model(**inputs(bound.model)).logits


def seen(bound, edit):
    """What reaches the down-projections: the outer tap looks after the inner edit."""
    acts = {}
    with intervening(bound, CHOSEN, edit), tapped(bound, lambda s, a: acts.update({s: a.clone()})):
        logits(bound)
    return acts


def test_only_the_chosen_units_of_the_first_edited_layer_change(bound):
    plain, edited = seen(bound, scale(1.0)), seen(bound, suppress)
    site = Site("text", 0)
    assert (edited[site][..., [0, 5]] == 0).all()
    others = [i for i in range(plain[site].shape[-1]) if i not in (0, 5)]
    assert torch.equal(edited[site][..., others], plain[site][..., others])
    assert not torch.equal(plain[site][..., [0, 5]], edited[site][..., [0, 5]])


def test_scaling_by_one_is_bit_exact_and_by_two_doubles(bound):
    with intervening(bound, CHOSEN, scale(1.0)):
        same = logits(bound)
    assert torch.equal(same, logits(bound))
    plain, doubled = seen(bound, scale(1.0)), seen(bound, scale(2.0))
    site = Site("text", 0)
    assert torch.equal(doubled[site][..., [0, 5]], 2 * plain[site][..., [0, 5]])


def test_fixed_values_stand_at_every_token(bound):
    values = {site: torch.arange(len(ids)).float() for site, ids in CHOSEN.units.items()}
    acts = seen(bound, replace(values))[Site("text", 0)]
    assert (acts[..., 0] == 0).all()
    assert (acts[..., 5] == 1).all()


def test_editing_nothing_is_an_error_not_a_null_result(bound):
    with pytest.raises(EmptySetError, match="measures the model unchanged"):
        with intervening(bound, NeuronSet.of({}), suppress):
            pass


def test_neurons_of_another_model_are_refused(bound):
    for strange in (
        NeuronSet.of({Site("text", 9): [0]}),
        NeuronSet.of({Site("text", 0): [10_000]}),
    ):
        with pytest.raises(LayoutMismatchError, match="belong to another model"):
            with intervening(bound, strange, suppress):
                logits(bound)


def test_a_block_in_which_nothing_ran_is_an_error(bound):
    with pytest.raises(DeadTapError), intervening(bound, CHOSEN, suppress):
        pass
    assert not any(module._forward_pre_hooks for module in bound.model.modules())

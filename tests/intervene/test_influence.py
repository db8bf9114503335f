"""Influence between layers is what two plain forward passes say, and random sets are read alike."""

import pytest
import torch

import tiny
from precise_shield.core.errors import EmptySetError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.intervene.influence import Pass, by_layer, influence
from precise_shield.models.architecture.bind import bind
from precise_shield.models.passes.taps import tapped

CHOSEN = NeuronSet.of(
    {Site("text", 0): [1, 5, 7], Site("text", 1): [2, 3], Site("text", 2): range(20)}
)
OTHER = NeuronSet.of({Site("text", 0): [10], Site("text", 1): [11, 12], Site("text", 2): [13]})


@pytest.fixture(scope="module")
def bound():
    return bind(tiny.tiny("llama"))


def passes(bound, *places):
    out = []
    for i, place in enumerate(places):
        given = {"input_ids": torch.arange(12).view(2, 6) + 3 + i}
        run = lambda given=given: bound.backbone(**given, use_cache=False)  # noqa: E731
        out.append(Pass(run, torch.tensor(place)))
    return out


def acts(bound, each, layer, units, silenced=None):
    seen = {}

    def fn(site, values):
        seen[site.layer] = values[torch.arange(2), each.place][:, list(units)].double()

    with torch.no_grad(), tapped(bound, fn):
        if silenced is None:
            each.run()
        else:
            with intervening(bound, silenced, suppress):
                each.run()
    return seen[layer]


def test_it_is_the_difference_of_two_plain_passes(bound):
    both = passes(bound, [5, 2], [4, 4])
    found, _ = influence(bound, CHOSEN, [], both)
    assert found.layers == [0, 1, 2]
    low = NeuronSet.of({Site("text", 0): [1, 5, 7]})
    before = torch.cat([acts(bound, each, 2, range(20)) for each in both])
    after = torch.cat([acts(bound, each, 2, range(20), low) for each in both])
    size = before.abs().sum()
    torch.testing.assert_close(found.change[0, 2], after.abs().sum() / size - 1)
    torch.testing.assert_close(found.moved[0, 2], (after - before).abs().sum() / size)
    assert (before * after < 0).any()  # some change sign: |a| alone would miss how far they moved


def test_only_layers_above_have_a_figure(bound):
    found, _ = influence(bound, CHOSEN, [], passes(bound, [5, 5]))
    known = found.change.isfinite()
    assert torch.equal(known, torch.ones(3, 3, dtype=torch.bool).triu(1))
    assert (found.moved[known] >= found.change[known].abs() - 1e-12).all()


def test_controls_are_silenced_and_the_same_neurons_are_read(bound):
    """A control equal to the chosen set gives the same matrix; another does not."""
    each = passes(bound, [5, 3])
    chosen, (same, other) = influence(bound, CHOSEN, [CHOSEN, OTHER], each)
    torch.testing.assert_close(same.moved, chosen.moved, equal_nan=True)
    torch.testing.assert_close(other.base, chosen.base)
    assert not torch.allclose(other.moved[0, 1:], chosen.moved[0, 1:])


def test_batches_do_not_matter(bound):
    whole, _ = influence(bound, CHOSEN, [], passes(bound, [5, 2], [4, 4]))
    one, _ = influence(bound, CHOSEN, [], passes(bound, [5, 2]))
    two, _ = influence(bound, CHOSEN, [], passes(bound, [5, 2], [4, 4])[1:])
    torch.testing.assert_close(whole.base, one.base + two.base)
    torch.testing.assert_close(whole.apart, one.apart + two.apart)


def test_one_layer_is_refused_and_the_vision_tower_is_no_layer():
    bound = bind(tiny.tiny("llama"))
    alone = NeuronSet.of({Site("text", 1): [0], Site("vision", 0): [1], Site("vision", 1): [1]})
    assert list(by_layer(alone)) == [1]
    with pytest.raises(EmptySetError, match="two"):
        influence(bound, alone, [], [])

"""Neuron sets obey set algebra, one at a time and many draws at once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precise_shield.core.errors import DataError
from precise_shield.core.masks import Masks
from precise_shield.core.sites import NeuronSet, Site

WIDTHS = {Site("text", 0): 6, Site("text", 1): 4, Site("vision", 0): 3}
units = st.fixed_dictionaries(
    {site: st.sets(st.integers(0, width - 1)) for site, width in WIDTHS.items()}
)


@given(units, units)
def test_masks_and_sets_have_one_algebra(first, second):
    a, b = NeuronSet.of(first), NeuronSet.of(second)
    one, two = Masks.constant(a, WIDTHS), Masks.constant(b, WIDTHS)
    assert (one & two).draw(0) == a & b
    assert (one | two).draw(0) == a | b
    assert (one - two).draw(0) == a - b
    assert one.sizes().tolist() == [len(a)]
    for mine, theirs in ((one.share_of(two), a.share_of(b)), (one.jaccard(two), a.jaccard(b))):
        assert mine.item() == pytest.approx(theirs, nan_ok=True)


@given(units, units)
def test_remainder_and_common_part_make_up_the_whole(first, second):
    a, b = NeuronSet.of(first), NeuronSet.of(second)
    assert (a - b) | (a & b) == a
    assert len(a | b) == len(a) + len(b) - len(a & b)


@given(units)
def test_json_keeps_a_set(drawn):
    a = NeuronSet.of(drawn)
    assert NeuronSet.from_json(a.to_json()) == a


def test_overlap_is_directed_and_undefined_for_nothing():
    a = NeuronSet.of({Site("text", 0): [1, 2], Site("vision", 0): [1]})
    b = NeuronSet.of({Site("text", 0): [2, 3]})
    assert (a.share_of(b), b.share_of(a)) == (1 / 3, 1 / 2)
    assert math.isnan(NeuronSet.of({}).share_of(a))
    assert not NeuronSet.of({Site("text", 0): []})


@pytest.mark.parametrize(
    "bad", [{"text.0.ffn": [1, 1]}, {"text.0.ffn": [-1]}, {"text.x": [1]}, {"text.0.ffn": 3}]
)
def test_damaged_sets_are_refused(bad):
    with pytest.raises(DataError):
        NeuronSet.from_json(bad)


NAMES = {
    "text.12.ffn": Site("text", 12),
    "vision.0.attention": Site("vision", 0, "attention"),
    "text.3.query": Site("text", 3, "query"),
    "text.3.key": Site("text", 3, "key"),
    "text.3.value": Site("text", 3, "value"),
    "text.12.expert.5": Site("text", 12, "expert", 5),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_site_is_read_back_from_its_name(name):
    assert Site.parse(name) == NAMES[name]
    assert str(NAMES[name]) == name


@pytest.mark.parametrize(
    "name",
    ["text.12", "text.12.mlp", "audio.1.ffn", "text.x.ffn", "text.12.expert", "text.12.ffn.5",
     "text.12.expert.5.1", "text.12.expert.x", "text..ffn", "", "text.²2.ffn"],
)  # fmt: skip
def test_what_is_no_site_is_refused(name):
    with pytest.raises(DataError, match="is no site"):
        Site.parse(name)


def test_sites_sort_by_layer_then_kind_then_expert():
    layers = [Site("text", 2), Site("text", 10), Site("vision", 0)]
    assert sorted(reversed(layers)) == layers
    one = [Site("text", 0, "expert", 2), Site("text", 0, "expert", 10), Site("text", 0, "ffn")]
    assert sorted(reversed(one)) == one


def test_an_expert_site_says_which_expert_and_no_other_site_does():
    with pytest.raises(ValueError, match="expert None"):
        Site("text", 0, "expert")
    with pytest.raises(ValueError, match="expert 3"):
        Site("text", 0, "ffn", 3)

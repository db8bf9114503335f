"""Neuron sets obey set algebra, one at a time and many draws at once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precise_shield.core.errors import DataError
from precise_shield.core.masks import Masks
from precise_shield.core.sites import NeuronSet, Site

WIDTHS = {Site("text", 0): 6, Site("text", 1): 4, Site("vision", 0): 3}
sets = st.fixed_dictionaries(
    {site: st.sets(st.integers(0, width - 1)) for site, width in WIDTHS.items()}
).map(NeuronSet.of)


@given(sets, sets)
def test_masks_and_sets_have_one_algebra(a, b):
    one, two = Masks.constant(a, WIDTHS), Masks.constant(b, WIDTHS)
    assert (one & two).draw(0) == a & b
    assert (one | two).draw(0) == a | b
    assert (one - two).draw(0) == a - b
    assert one.sizes().tolist() == [len(a)]
    for mine, theirs in ((one.share_of(two), a.share_of(b)), (one.jaccard(two), a.jaccard(b))):
        assert mine.item() == pytest.approx(theirs, nan_ok=True)


@given(sets, sets)
def test_remainder_and_common_part_make_up_the_whole(a, b):
    assert (a - b) | (a & b) == a
    assert len(a | b) == len(a) + len(b) - len(a & b)


@given(sets)
def test_json_keeps_a_set(a):
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

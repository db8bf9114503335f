"""An atlas is read back whole, by us and by anybody, and two of them are compared by hand."""

import json

import pytest
import torch
from safetensors.numpy import load_file

from precise_shield.analyse.atlases import compare
from precise_shield.core.atlas import Atlas
from precise_shield.core.errors import LayoutMismatchError, StoreError
from precise_shield.core.sites import NeuronSet, Site

LOW, HIGH = Site("text", 0), Site("text", 1)
WIDTHS = {LOW: 4, HIGH: 8}


def atlas(units, score=(1.0, 2.0, 3.0, 4.0)):
    sets = {"en/text": NeuronSet.of(units), "MLS": NeuronSet.of({})}
    scores = {"en/text": {LOW: torch.tensor(score), HIGH: torch.arange(8.0)}}
    return Atlas(sets, "en/text", WIDTHS, [("en", "text")], scores, {"score": "precise_shield"})


def test_an_atlas_reads_back_as_it_was(tmp_path):
    one = atlas({LOW: [3, 1], HIGH: [7]})
    path = one.save(tmp_path)
    for back in (Atlas.load(path), Atlas.load(tmp_path)):
        assert back.sets == one.sets
        assert (back.chosen, back.widths, back.places) == (one.chosen, one.widths, one.places)
        assert back.about == one.about
        assert torch.equal(back.scores["en/text"][HIGH], torch.arange(8.0))
        assert back.neurons == one.sets["en/text"]


def test_three_lines_of_safetensors_read_it_without_this_library(tmp_path):
    atlas({LOW: [3, 1]}).save(tmp_path)
    tensors = load_file(tmp_path / "atlas.safetensors")
    assert tensors["units|en/text|text.0.ffn"].tolist() == [1, 3]
    assert tensors["score|en/text|text.0.ffn"].tolist() == [1, 2, 3, 4]
    header = json.loads((tmp_path / "atlas.json").read_text())
    assert header["sets"] == {"en/text": 2, "MLS": 0}
    assert header["widths"] == {"text.0.ffn": 4, "text.1.ffn": 8}


def test_two_atlases_share_what_counting_says():
    """{1, 3 | 7} and {1, 2 | 7, 6}: 2 shared of 3 and of 4; by chance (2 x 2 / 4 + 2 / 8) / 3."""
    one = atlas({LOW: [1, 3], HIGH: [7]})
    two = atlas({LOW: [1, 2], HIGH: [7, 6]}, score=(4.0, 3.0, 2.0, 1.0))
    rows = {row.name: row for row in compare(one, two)}
    row = rows["en/text"]
    assert (row.a, row.b, row.shared) == (3, 4, 2)
    assert row.share == pytest.approx(2 / 3)
    assert row.jaccard == pytest.approx(2 / 5)
    assert row.chance == pytest.approx((2 * 2 / 4 + 1 * 2 / 8) / 3)
    assert row.rank == pytest.approx((-1 + 1) / 2)  # reversed below, equal above
    assert rows["MLS"].share != rows["MLS"].share
    assert rows["MLS"].rank != rows["MLS"].rank


def test_other_shapes_and_other_files_are_refused(tmp_path):
    wide = Atlas({}, "x", {LOW: 4, HIGH: 9}, [])
    with pytest.raises(LayoutMismatchError, match="different architectures"):
        compare(atlas({}), wide)
    with pytest.raises(StoreError, match="cannot be read as an atlas"):
        Atlas.load(tmp_path / "nothing.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(StoreError, match="is no atlas"):
        Atlas.load(tmp_path / "other.safetensors")

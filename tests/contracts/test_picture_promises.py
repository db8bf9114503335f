"""A vision tower's rows are told apart by picture, in every family that can, and refused else."""

import pytest
import torch

from precise_shield.core.errors import LayoutMismatchError, UnsupportedModelError
from precise_shield.core.records import Cell
from precise_shield.core.sites import Site
from precise_shield.identify.collect import Batch, collect
from precise_shield.models.architecture.bind import bind
from precise_shield.models.architecture.layouts import layouts_for
from precise_shield.models.architecture.pictures import (
    picture_means,
    picture_rows,
    reaching,
    rows_a_picture,
)
from precise_shield.models.passes.taps import tapped
from tiny import SEEING_CONFIGS, inputs, tiny

CELLS = [Cell("en", "image_dominant", "harmful"), Cell("en", "image_dominant", "benign")]
MAPPED = sorted(k for k in SEEING_CONFIGS if layouts_for(k)["vision"].pictures)


def one_of(model, row):
    """One example of the fixed two, with its own picture."""
    both = inputs(model)
    found = {}
    for name, value in both.items():
        half = len(value) // 2
        found[name] = value[row * half : (row + 1) * half]
    return found


def batch(model, given, cells):
    mask = torch.zeros(given["input_ids"].shape, dtype=torch.bool)
    mask[:, -1] = True
    return Batch(given, cells, torch.arange(len(cells)), {"response_mean": mask})


@pytest.mark.parametrize("name", MAPPED)
def test_a_picture_s_mean_is_that_of_the_picture_alone(name):
    model = tiny(name)
    bound = bind(model, ("text", "vision"), ("ffn", "query", "attention"))
    alone = []
    for row in (0, 1):
        acts = {}
        with torch.no_grad(), tapped(bound, lambda s, a, acts=acts: acts.update({s: a.clone()})):
            model(**one_of(model, row))
        alone.append(acts)
    parts = [batch(model, one_of(model, row), [CELLS[row]]) for row in (0, 1)]
    if picture_rows(name) != "tiles":
        parts = [batch(model, inputs(model), CELLS)]
    stats = collect(bound, CELLS, parts)
    for site in bound.sites:
        if site.tower == "vision":
            for row, cell in enumerate(CELLS):
                by_hand = alone[row][site].flatten(0, -2).double().mean(0)
                found = stats.at(site, cell, "response_mean").pooled()
                assert found.count == 1
                torch.testing.assert_close(found.mean, by_hand, rtol=1e-4, atol=1e-5)
    first = [acts[min(acts)].flatten() for acts in alone]
    assert not torch.allclose(first[0], first[1], atol=1e-3)  # the two pictures differ


@pytest.mark.parametrize("name", ["llava_next", "smolvlm", "internvl"])
def test_tiles_of_several_pictures_are_not_guessed(name):
    with pytest.raises(UnsupportedModelError, match="one picture at a time, not 2"):
        rows_a_picture(name, inputs(tiny(name)), 2)


def test_a_family_that_mixes_padding_in_is_refused():
    with pytest.raises(UnsupportedModelError, match="'mllama' cannot be searched"):
        picture_rows("mllama")
    with pytest.raises(UnsupportedModelError, match="'llama' cannot be searched"):
        picture_rows("llama")


def test_rows_that_do_not_add_up_are_refused():
    with pytest.raises(LayoutMismatchError, match="has 3 rows where its pictures take 2"):
        picture_means(torch.zeros(3, 4, 5), [1, 1])


def test_layers_that_nobody_reads_are_left_out():
    """LLaVA reads the second-to-last layer: breaking the last changes no answer."""
    model = tiny("llava")
    bound = bind(model, ("text", "vision"))
    left = set(bound.sites) - set(reaching(bound))
    assert left == {Site("vision", 1)}
    with torch.no_grad():
        before = model(**inputs(model)).logits
        for site, same in ((Site("vision", 1), True), (Site("vision", 0), False)):
            weight = bound.sites[site].owned[0].weight
            weight.data.mul_(3)
            assert torch.equal(model(**inputs(model)).logits, before) == same


@pytest.mark.parametrize("name", ["gemma3", "internvl", "qwen3_vl"])
def test_towers_that_are_read_to_the_end_stay_whole(name):
    bound = bind(tiny(name), ("text", "vision"))
    assert set(reaching(bound)) == set(bound.sites)

"""The streaming pass equals keeping everything, however it is cut."""

import json

import pytest
import torch
from safetensors.torch import save_file

from precise_shield.core.errors import DataError, StoreError
from precise_shield.core.moments import FIELDS
from precise_shield.core.records import Cell
from precise_shield.core.sites import Site
from precise_shield.identify.collect import ACTIVATION, Batch, Quantity, collect, state_bytes
from precise_shield.identify.stats import Stats
from precise_shield.models.architecture.bind import bind
from precise_shield.models.passes.taps import tapped
from tiny import inputs, tiny

CELLS = [Cell("en", "text", "harmful"), Cell("en", "text", "benign")]


@pytest.fixture
def bound():
    return bind(tiny("llama"))


def rows(bound, count=12):
    return inputs(bound.model, batch=count, length=6)["input_ids"]


def batch(bound, ids, start):
    index = torch.arange(start, start + len(ids))
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[:, 2:5] = True
    return Batch(
        inputs={"input_ids": ids},
        cells=[CELLS[i % 2] for i in index.tolist()],
        folds=index % 16,
        masks={"response_mean": mask, "last_prompt": mask & (mask.cumsum(1) == 1)},
    )


def streamed(bound, cuts):
    ids, start, parts = rows(bound), 0, []
    for cut in cuts:
        parts.append(batch(bound, ids[start : start + cut], start))
        start += cut
    return collect(bound, CELLS, parts)


def test_streaming_equals_storing_every_activation(bound):
    seen = {}
    with torch.no_grad(), tapped(bound, lambda site, acts: seen.update({site: acts.clone()})):
        bound.backbone(input_ids=rows(bound))
    stats = streamed(bound, [5, 7])
    for site, acts in seen.items():
        kept = acts[::2, 2:5].mean(1).double()  # harmful rows, three response positions each
        pooled = stats.at(site, CELLS[0], "response_mean").pooled()
        torch.testing.assert_close(pooled.mean, kept.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(pooled.var, kept.var(0), rtol=1e-4, atol=1e-8)
        last = stats.at(site, CELLS[0], "last_prompt").pooled()
        torch.testing.assert_close(last.mean, acts[::2, 2].double().mean(0), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(last.mean, pooled.mean)


@pytest.mark.parametrize("cuts", [[12], [1] * 12, [3, 4, 5]])
def test_statistics_do_not_depend_on_batches(bound, cuts):
    one, other = streamed(bound, [6, 6]), streamed(bound, cuts)
    for key, moments in one.moments.items():
        torch.testing.assert_close(moments.mean, other.moments[key].mean, rtol=1e-5, atol=1e-6)
        assert torch.equal(moments.count, other.moments[key].count)


def test_merged_shards_equal_one_pass_and_files_keep_every_bit(bound, tmp_path):
    ids = rows(bound)
    left = collect(bound, CELLS, [batch(bound, ids[:5], 0)])
    left.merge(collect(bound, CELLS, [batch(bound, ids[5:], 5)]))
    left.save(tmp_path / "stats.safetensors")
    back = Stats.load(tmp_path / "stats.safetensors")
    whole = streamed(bound, [5, 7])
    assert list(back.cells) == sorted(CELLS)
    for key, moments in whole.moments.items():
        torch.testing.assert_close(left.moments[key].mean, moments.mean, rtol=1e-9, atol=1e-12)
        assert torch.equal(back.moments[key].m2, left.moments[key].m2)
    assert all(torch.equal(back.norms[site], left.norms[site]) for site in left.norms)


def test_a_file_of_schema_1_is_read_as_activations(bound, tmp_path):
    stats = streamed(bound, [12])
    tensors = {f"norm|{site}": norm for site, norm in stats.norms.items()}
    for place, moments in stats.moments.items():
        for name in FIELDS:
            tensors[f"{place.site}|{place.position}|{name}"] = getattr(moments, name)
    header = {"stats": 1, "cells": list(map(str, stats.cells))}
    save_file(tensors, tmp_path / "old.safetensors", {"schema": json.dumps(header)})
    back = Stats.load(tmp_path / "old.safetensors")
    assert back.moments.keys() == stats.moments.keys()
    assert all(torch.equal(back.moments[at].m2, one.m2) for at, one in stats.moments.items())


def test_another_quantity_is_streamed_and_kept_beside_the_activation(bound, tmp_path):
    def doubled(bound, part, emit):
        ACTIVATION.read(bound, part, lambda site, position, rows: emit(site, position, 2 * rows))

    stats = streamed(bound, [12])
    twice = Quantity("twice", doubled, "twice the activation")
    stats.merge(collect(bound, CELLS, [batch(bound, rows(bound), 0)], quantity=twice))
    stats.save(tmp_path / "stats.safetensors")
    back = Stats.load(tmp_path / "stats.safetensors")
    for site in bound.sites:
        plain, other = (
            back.at(site, CELLS[0], "last_prompt", name).pooled()
            for name in ("activation", "twice")
        )
        torch.testing.assert_close(other.mean, 2 * plain.mean)
        assert plain.mean.abs().sum() > 0
    with pytest.raises(DataError, match=r"no statistics for text.0.ffn\|last_prompt\|thrice"):
        back.at(Site("text", 0), CELLS[0], "last_prompt", "thrice")


def test_the_state_is_as_large_as_announced_whatever_the_prompts(bound):
    few, many = streamed(bound, [6, 6]), streamed(bound, [12])
    assert few.bytes() == many.bytes() == state_bytes(bound, cells=2, positions=2)


def test_an_example_without_the_wanted_token_is_an_error_and_leaves_no_hook(bound):
    ids = rows(bound)
    part = batch(bound, ids, 0)
    part.masks["response_mean"][3] = False
    with pytest.raises(
        DataError, match=r"cell en/text/benign has no token at position 'response_mean'"
    ):
        collect(bound, CELLS, [part])
    assert not any(module._forward_pre_hooks for module in bound.model.modules())


def test_a_damaged_statistics_file_is_refused(tmp_path):
    path = tmp_path / "stats.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0not json")
    with pytest.raises(StoreError, match="cannot be read"):
        Stats.load(path)
    with pytest.raises(DataError, match="no statistics"):
        Stats({Site("text", 0): torch.ones(3)}, tuple(CELLS)).at(
            Site("text", 0), CELLS[0], "last_prompt"
        )

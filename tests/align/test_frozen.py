"""Caches and checkpointing: the training without them, to the last bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from align_tiny import batch, build, chosen, weights
from torch import nn
from transformers.pytorch_utils import Conv1D

from precise_shield.align import frozen
from precise_shield.align.delta import DirectUnits, LoraRows, tuning
from precise_shield.align.fit import FitSpec, fit
from precise_shield.align.frozen import CacheSpec
from precise_shield.align.losses import TrainBatch
from precise_shield.core.errors import ConfigError, StoreError, UnsupportedModelError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.models.architecture.bind import bind
from precise_shield.models.architecture.layouts import layouts_for
from precise_shield.models.passes.decoder import blocks
from tiny import MOE_CONFIGS, SEEING_CONFIGS, TEXT_CONFIGS

SPEC = FitSpec(epochs=3, batch_size=4, micro_batch=4, learning_rate=1e-2, max_steps=4)
FORM = LoraRows(rank=3, dropout=0.2)
FAMILIES = [
    (kind, layer)
    for kind in (*TEXT_CONFIGS, *MOE_CONFIGS, *SEEING_CONFIGS)
    for layer in ((0, 1) if kind in SEEING_CONFIGS else (1,))
]


def padded(bound, seed=0, rows=4):
    """Rows of unequal length, padded on the right, each with a picture where the model sees."""
    whole = batch(bound, seed, rows)
    real = torch.ones_like(whole.labels)
    for row in range(rows):
        real[row, real.shape[1] - (0, 1, 2, 1)[row] :] = 0
    inputs = {**whole.inputs, "attention_mask": real}
    inputs["input_ids"] = inputs["input_ids"].masked_fill(real == 0, 0)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = inputs["mm_token_type_ids"] * real
    names = tuple(f"{seed}/{row}" for row in range(rows)) if "pixel_values" in inputs else ()
    labels = whole.labels.masked_fill(real == 0, -100)
    return TrainBatch(inputs, labels, whole.benign, names)


def upper(bound, layer):
    """Neurons of the layers from this one on."""
    units = {site: ids for site, ids in chosen(bound).units.items() if site.layer >= layer}
    return NeuronSet.of(units)


def train(bound, layer, cache, spec=SPEC, batches=None, form=FORM, **options):
    rows, notes = [padded(bound, seed) for seed in (0, 1)], []
    with tuning(bound, upper(bound, layer), form, seed=1) as deltas:
        done = fit(deltas, batches or (lambda epoch: rows), spec, cache=cache,
                   note=notes.append, **options)  # fmt: skip
    return done.losses, weights(bound), notes


def equal(one, other):
    return one[0] == other[0] and all(torch.equal(v, other[1][name]) for name, v in one[1].items())


def bound_for(kind):
    """Attention rows where a family has no plain feed-forward neurons in every layer."""
    if kind not in MOE_CONFIGS:
        return build(kind)
    return bind(build(kind, every=True).model, units=("query",))


def below(bound, layer):
    """A part of what is frozen: inside block 0, or a block of the vision tower."""
    if layer:
        return next(m for m in blocks(bound)[0].modules() if isinstance(m, nn.Linear | Conv1D))
    path = layouts_for(bound.model.config.model_type)["vision"].layers
    return next(bound.model.get_submodule(path).children())


@pytest.mark.parametrize(("kind", "layer"), FAMILIES)
def test_a_cached_training_is_the_training_bit_for_bit(kind, layer):
    """Every family, padded rows, the base's answers too; what is below runs in no training pass."""
    spec = replace(SPEC, kl_weight=0.5)
    runs, learning = [], []
    for cache in (None, CacheSpec()):
        bound, ran = bound_for(kind), []
        watched = below(bound, layer).register_forward_hook(
            lambda *_, ran=ran: ran.append(torch.is_grad_enabled())
        )
        runs.append(train(bound, layer, cache, spec))
        watched.remove()
        learning.append((len(ran), any(ran)))
    assert equal(*runs)
    assert len(set(runs[0][0])) == 4
    assert learning[0][1]
    assert learning[1][0] > 0
    assert not learning[1][1]
    assert learning[1][0] < learning[0][0]
    what = "states that enter block" if layer else "what pictures give"
    assert f"cache: {what}" in runs[1][2][0]
    assert "the base model's answers" in runs[1][2][0]


@pytest.mark.parametrize("layer", [0, 1])
def test_rows_that_meet_in_other_batches_differ_by_rounding_only(layer):
    def shuffled(kind):
        def batches(epoch):
            every = [padded(kind, seed) for seed in (0, 1)]
            order = torch.randperm(8, generator=torch.Generator().manual_seed(epoch))
            return [picked(every, order[:4].tolist()), picked(every, order[4:].tolist())]

        return batches

    spec = replace(SPEC, kl_weight=0.5, max_steps=6)
    one, two = (
        train(bound, layer, cache, spec, batches=shuffled(bound))
        for cache in (None, CacheSpec())
        for bound in (build("llava"),)
    )
    torch.testing.assert_close(one[0], two[0], rtol=1e-6, atol=1e-6)
    for name, value in one[1].items():
        torch.testing.assert_close(value, two[1][name], rtol=1e-6, atol=1e-6)
    assert one[0][0] != one[0][2]


def picked(every, places):
    """Rows of several batches, cut to the longest of them."""
    at = [divmod(place, every[0].rows) for place in places]
    longest = max(int(every[b].inputs["attention_mask"][r].sum()) for b, r in at)
    inputs = {
        name: torch.stack([every[b].inputs[name][r] for b, r in at]) for name in every[0].inputs
    }
    cut = {n: v[:, :longest] if n in ("input_ids", "attention_mask") else v
           for n, v in inputs.items()}  # fmt: skip
    return TrainBatch(
        cut,
        torch.stack([every[b].labels[r] for b, r in at])[:, :longest],
        torch.stack([every[b].benign[r] for b, r in at]),
        tuple(every[b].pictures[r] for b, r in at),
    )


def test_pairs_meet_the_same_base_model_from_the_cache():
    spec = replace(SPEC, objective="dpo")
    plain, cached = (train(build("llama"), 1, cache, spec) for cache in (None, CacheSpec()))
    assert equal(plain, cached)
    assert plain[0][0] == pytest.approx(2 * 0.6931472 / 2, rel=1e-5)
    assert plain[0][-1] != plain[0][0]


def test_pairs_with_a_kl_term_keep_both_also_in_a_folder_of_pairs_alone(tmp_path):
    spec = replace(SPEC, objective="dpo", kl_weight=0.5)
    train(build("llama"), 1, CacheSpec(tmp_path), replace(spec, kl_weight=0.0))
    rows = [replace(padded(build("llama"), seed), benign=torch.tensor([True] + [False] * 3))
            for seed in (0, 1)]  # fmt: skip
    plain, *cached = (
        train(build("llama"), 1, cache, spec, batches=lambda epoch: rows)
        for cache in (None, CacheSpec(), CacheSpec(tmp_path))
    )
    assert all(equal(plain, each) for each in cached)
    assert plain[0] != train(build("llama"), 1, None, replace(spec, kl_weight=0.0))[0]


def test_pictures_are_checked_although_words_alone_came_first(monkeypatch):
    """A family whose blocks are given more from below is refused once a batch shows it."""
    bound, real = build("llava"), frozen.arrival

    def losing(bound, inputs, layer, *, through):
        given, final = real(bound, inputs, layer, through=through)
        return replace(given, hidden=given.hidden * (1 - 0.5 * ("pixel_values" in inputs))), final

    monkeypatch.setattr(frozen, "arrival", losing)
    seeing = padded(bound, 1)
    words = {n: v for n, v in seeing.inputs.items() if n in ("input_ids", "attention_mask")}
    blind = replace(seeing, inputs=words, pictures=())
    train(bound, 1, CacheSpec(), batches=lambda epoch: [blind, blind])
    with pytest.raises(UnsupportedModelError, match="from below that is not kept"):
        train(bound, 1, CacheSpec(), batches=lambda epoch: [blind, seeing])


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_run_that_broke_off_goes_on_bit_for_bit_from_its_cache(where, tmp_path):
    spec = replace(SPEC, kl_weight=0.5, max_steps=6, checkpoint_every=1)
    folder = tmp_path / "cache" if where == "disk" else None
    cache = CacheSpec(folder, "rows")
    whole = train(build("llava"), 1, CacheSpec(), spec)

    def breaks(info):
        if info.step == 3:
            raise RuntimeError("power cut")

    path = tmp_path / "fit"
    with pytest.raises(RuntimeError, match="power cut"):
        train(build("llava"), 1, cache, spec, checkpoint=path, on_step=breaks)
    if folder is not None:  # one file of the cache was not written yet
        files = sorted(folder.rglob("*.safetensors"))
        assert len(files) == 4
        files[1].unlink()
    again = train(build("llava"), 1, cache, spec, checkpoint=path)
    assert equal(again, whole)
    with pytest.raises(StoreError, match="other neurons, weights or settings"):
        train(build("llava"), 1, None, spec, checkpoint=path)


def test_trainings_share_a_folder_and_others_are_refused_from_it(tmp_path):
    """The random rows' arm has a lowest block of its own; the base's answers serve both."""
    spec, cache = replace(SPEC, kl_weight=0.5), CacheSpec(tmp_path, "rows")
    train(build("llama"), 1, cache)  # without the KL term nothing of it is there yet
    first = train(build("llama"), 1, cache, spec)
    assert "taken up again" in train(build("llama"), 1, cache, spec)[2][0]
    assert equal(train(build("llama"), 1, cache, spec), first)
    other = train(build("llama"), 2, cache, spec)
    assert equal(other, train(build("llama"), 2, None, spec))
    assert {path.name for path in tmp_path.iterdir()} == {
        "block-001", "block-002", "base-benign",
    }  # fmt: skip
    with pytest.raises(StoreError, match="made by another model"):
        train(build("llama"), 1, CacheSpec(tmp_path, "other rows"), spec)


def test_what_would_not_be_exact_is_refused(tmp_path):
    bound = build("gpt2")
    bound.model.train()
    with pytest.raises(ConfigError, match="is in training mode with p = "):
        train(bound, 1, CacheSpec())
    bound = bind(build("llava").model, ("vision",))
    trained = NeuronSet.of({Site("vision", 0, "ffn"): [0, 3]})
    with tuning(bound, trained, DirectUnits(), seed=0) as deltas:
        rows = [padded(bound), padded(bound, 1)]
        with pytest.raises(ConfigError, match="outside the language model's blocks"):
            fit(deltas, lambda epoch: rows, SPEC, cache=CacheSpec())
        fit(deltas, lambda epoch: rows, SPEC)
    with pytest.raises(ConfigError, match=r"the limit is .*; nothing was trained"):
        train(build("llama"), 1, CacheSpec(limit=10))
    bound = build("llava")
    unnamed = [replace(padded(bound, seed), pictures=()) for seed in (0, 1)]
    with pytest.raises(ConfigError, match="does not name them"):
        train(bound, 0, CacheSpec(), batches=lambda epoch: unnamed)
    with pytest.raises(ConfigError, match="a row that the first epoch had not"):
        train(bound, 1, CacheSpec(), batches=lambda epoch: [padded(bound, 5 * epoch)] * 2)
    left = [replace(row, inputs={n: v.flip(1) if v.dim() == 2 else v
                                 for n, v in row.inputs.items()})
            for row in (padded(build("llama"), 0), padded(build("llama"), 1))]  # fmt: skip
    with pytest.raises(ConfigError, match="padded on the left"):
        train(build("llama"), 1, CacheSpec(), batches=lambda epoch: left)


def test_nothing_to_keep_is_said():
    once = train(build("llama"), 1, CacheSpec(), replace(SPEC, max_steps=2))
    assert once[2] == ["cache: no row is met twice in this training, so nothing is kept"]
    lowest = train(build("llama"), 0, CacheSpec())
    assert lowest[2] == ["cache: nothing to keep, for block 0 is trained and there are no pictures"]
    assert equal(lowest, train(build("llama"), 0, None))


@pytest.mark.parametrize("kind", ["gemma2", "gpt2", "qwen2_moe", "llava", "mllama", "qwen3_vl"])
@pytest.mark.parametrize("form", [FORM, DirectUnits()], ids=["lora", "direct"])
def test_running_blocks_again_in_the_backward_pass_changes_nothing(kind, form):
    """Dropout included; proven by how often a trained block runs."""
    counts, runs = [], []
    for again in (False, True):
        bound, ran = build(kind), []
        block = blocks(bound)[-1]
        part = next(m for m in block.modules() if isinstance(m, nn.Linear | Conv1D))
        watched = part.register_forward_hook(lambda *_, ran=ran: ran.append(1))
        spec = replace(SPEC, gradient_checkpointing=again, kl_weight=0.5)
        runs.append(train(bound, 0, None, spec, form=form))
        watched.remove()
        counts.append(len(ran))
    assert equal(*runs)
    assert counts[1] == counts[0] + 4


def test_bfloat16_trains_with_all_savings_and_float32_parameters():
    bound = build("llava", torch.bfloat16)
    spec = replace(SPEC, gradient_checkpointing=True, max_steps=None, epochs=6)
    with tuning(bound, upper(bound, 1), LoraRows(rank=3, dropout=0.0), seed=1) as deltas:
        rows = [padded(bound, seed) for seed in (0, 1)]
        done = fit(deltas, lambda epoch: rows, spec, cache=CacheSpec())
        assert {p.dtype for p in deltas.parameters()} == {torch.float32}
    assert {p.dtype for p in bound.model.parameters()} == {torch.bfloat16}
    assert done.losses[-1] < done.losses[0]
    assert deltas.sparse().changed_weights() > 0

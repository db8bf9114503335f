"""The project's tiny models, with weights large enough for training to show, and batches."""

from __future__ import annotations

import torch

from precise_shield.align.losses import IGNORE, TrainBatch
from precise_shield.core.sites import NeuronSet
from precise_shield.models.architecture.bind import BoundModel, bind, kinds_of
from tiny import SEEING_CONFIGS, TEXT_CONFIGS, inputs, tiny

KINDS = ("gemma2", "gpt2", "llama", "llava", "phi3")
"""Plain, fused, transposed and nested weights, a soft-capped head, and a model with eyes."""

FAMILIES = (*TEXT_CONFIGS, *SEEING_CONFIGS)


def build(
    model_type: str, dtype: torch.dtype = torch.float32, *, every: bool = False
) -> BoundModel:
    """A bound model, the same every time; with `every`, units of all kinds that it has."""
    model = tiny(model_type)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0)
    if model_type == "gemma2":
        model.config.final_logit_softcapping = 2.0
    return bind(model.to(dtype), units=kinds_of(model) if every else ("ffn",))


def chosen(bound: BoundModel) -> NeuronSet:
    """Some neurons in every layer, the first and the last unit included, unevenly many."""
    return NeuronSet.of(
        {site: [0, 5, spot.width - 1][: 3 - site.layer % 2] for site, spot in bound.sites.items()}
    )


def batch(bound: BoundModel, seed: int = 0, rows: int = 4, length: int = 10) -> TrainBatch:
    """Rows with answers of different lengths, half of them benign, a picture each with eyes."""
    given = dict(inputs(bound.model, rows, length))
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(3, 56, (rows, length), generator=generator)
    ids = given["input_ids"] = given["input_ids"].clone()
    ids[:, -length:] = words
    labels = torch.full_like(ids, IGNORE)
    for row in range(rows):
        labels[row, -6 + row :] = ids[row, -6 + row :]
    dtype = bound.model.dtype
    cast = {n: v.to(dtype) if v.is_floating_point() else v for n, v in given.items()}
    return TrainBatch(cast, labels, torch.arange(rows) % 2 == 1)


def cut(whole: TrainBatch, rows: int) -> list[TrainBatch]:
    """The same rows, in passes of `rows`."""
    parts = []
    for start in range(0, whole.rows, rows):
        few = slice(start, start + rows)
        some = {name: value[few] for name, value in whole.inputs.items()}
        parts.append(TrainBatch(some, whole.labels[few], whole.benign[few]))
    return parts


def weights(bound: BoundModel) -> dict[str, torch.Tensor]:
    """A copy of everything a checkpoint would hold."""
    return {name: value.detach().clone() for name, value in bound.model.state_dict().items()}

"""What the tool sees in a model: towers, layers, units, parameters and memory, before a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from precise_shield.core.errors import UserError
from precise_shield.core.moments import FOLDS
from precise_shield.core.sites import FEED_FORWARD, Tower
from precise_shield.models.architecture.bind import BoundModel, bind, kinds_of
from precise_shield.models.architecture.layouts import layouts_for
from precise_shield.models.loading.model import load, pick_device
from precise_shield.models.loading.skeleton import skeleton
from precise_shield.models.loading.spec import ModelSpec
from precise_shield.workflows.base.config import Config
from precise_shield.workflows.base.embedded import spec_of
from precise_shield.workflows.base.sections.model import ModelSection
from precise_shield.workflows.plan.reading import reading

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CELLS = 60
"""Cells that the estimate of the statistics assumes: ten languages, three modalities, two harms."""


def doctor(section: ModelSection) -> dict[str, Any]:
    """Describe a model; where its files are on this machine, load it and say what is wrong.

    Raises:
        UserError: the architecture is unknown or has no readable configuration.
    """
    return {**describe(section), "files": _files(spec_of(section))}


def describe(section: ModelSection) -> dict[str, Any]:
    """Architecture, towers, units, memory and how it is spoken to, without its weights.

    Raises:
        UserError: the architecture is unknown or has no readable configuration.
    """
    spec = spec_of(section)
    found = skeleton(spec)
    towers = {}
    for tower in layouts_for(found.config.model_type):
        towers[tower] = _tower(found.model, tower)
    parameters = sum(p.numel() for p in found.model.parameters())
    stored = str(found.config.dtype or torch.float32).removeprefix("torch.")
    dtype = section.dtype if section.dtype != "auto" else stored
    return {
        "model": section.path,
        "model_type": found.config.model_type,
        "pictures": found.sees,
        "parameters": parameters,
        "device": str(pick_device(section.device)),
        "towers": towers,
        "reading": reading(spec, found.config),
        "memory_mib": _memory(found.model, towers["text"], parameters * BYTES.get(dtype, 4)),
    }


def _tower(model: PreTrainedModel, tower: Tower) -> dict[str, Any]:
    """Each kind of unit, and the feed-forward neurons, experts' included, in short."""
    kinds = {kind: bind(model, (tower,), (kind,)) for kind in kinds_of(model, (tower,))}
    layers: dict[int, int] = {}
    for kind in kinds:
        for site, spot in kinds[kind].sites.items():
            layers[site.layer] = layers.get(site.layer, 0) + spot.width * (kind in FEED_FORWARD)
    return {
        "layers": len(layers),
        "units_a_layer": _one_or_all(layers.values()),
        "neurons": sum(layers.values()),
        "kinds": {kind: _kind(bound) for kind, bound in kinds.items()},
    }


def _kind(bound: BoundModel) -> dict[str, Any]:
    spots = list(bound.sites.values())
    where = {"input": "input of", "output": "output of", "experts": "inside"}
    return {
        "sites": len(spots),
        "units_a_site": _one_or_all(spot.width for spot in spots),
        "units": sum(spot.width for spot in spots),
        "read_at": f"{where[spots[0].point]} {spots[0].owned[0].name}",
        "owned": [f"{own.role}: {own.name}" for own in spots[0].owned],
    }


def _one_or_all(sizes: Iterable[int]) -> int | list[int]:
    found = sorted(set(sizes))
    return found[0] if len(found) == 1 else found


def _memory(model: PreTrainedModel, text: dict[str, Any], weights: int) -> dict[str, Any]:
    """Weights, statistics of a run of ten languages, and the optimiser of 1 % of the neurons."""
    default = Config.model_fields["align"].default
    hidden = int(model.config.get_text_config().hidden_size)
    chosen = text["neurons"] // 100
    lora = 2 * default.rank * (chosen + hidden * text["layers"])
    return {
        "weights": round(weights / 2**20),
        "weights_4bit": _few(model, weights, 0.5 + 4 / 64),
        "weights_8bit": _few(model, weights, 1.0),
        "statistics_ten_languages": round(4 * 8 * FOLDS * text["neurons"] * CELLS * 2 / 2**20),
        "row_masked_lora_and_adamw_1_percent": round(16 * lora / 2**20, 1),
    }


def _few(model: PreTrainedModel, weights: int, size: float) -> int:
    """MiB with `size` bytes a weight of a linear layer, scales included; the head stays whole."""
    known: Any = model
    head, every = known.get_output_embeddings(), sum(p.numel() for p in model.parameters())
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head
    )
    return round((weights * (every - linear) / every + size * linear) / 2**20)


def _files(spec: ModelSpec) -> str:
    """Whether what lies on this machine loads, in a sentence."""
    if not Path(spec.path).exists():
        return "on the hub, not loaded: run with a local folder to have the files checked"
    try:
        loaded = load(spec)
    except UserError as error:
        return f"PROBLEM: {error}"
    return f"load well; stop tokens {list(loaded.stop_ids)}, weights {loaded.fingerprint[:16]}"

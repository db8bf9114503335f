"""A stock PEFT LoRA adapter of an alignment, in the narrow form that servers accept too.

One rank everywhere, padded with zeros, `lora_alpha` equal to it and no patterns: PEFT merges
it, and vLLM and SGLang load its format. A row-masked LoRA keeps its own rank; direct rows and
columns become a LoRA whose one factor is one-hot, exact and as high as the largest number of
changed slices of a weight.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from precise_shield.align.lowrank import LowRank
from precise_shield.align.receipt import StoredReceipt
from precise_shield.align.slices import slices_of
from precise_shield.align.sparse import SparseDelta, expect
from precise_shield.core.errors import ReceiptError, StoreError, UnsupportedModelError
from precise_shield.core.store import must_be_free, whole_folder
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.holding.packed import seen

HIGHEST_RANK = 512
"""Most that vLLM takes (`max_lora_rank`)."""

PREFIX = "base_model.model."
"""What PEFT puts before a module's name in an adapter file."""


@dataclass(frozen=True)
class Adapter:
    """LoRA factors by module, all of one rank.

    Shapes: `[rank, in]` and `[out, rank]` a module, float32 on CPU.
    """

    rank: int
    a: dict[str, Float[Tensor, "rank _"]]
    b: dict[str, Float[Tensor, "_ rank"]]
    fan_in_fan_out: bool
    """The weights are stored transposed (GPT-2's Conv1D)."""

    def tensors(self) -> dict[str, Tensor]:
        """As PEFT names them in `adapter_model.safetensors`."""
        named = {f"{PREFIX}{module}.lora_A.weight": value for module, value in self.a.items()}
        return named | {f"{PREFIX}{m}.lora_B.weight": value for m, value in self.b.items()}

    def config(self, base: str, revision: str | None) -> dict[str, object]:
        """Content of `adapter_config.json`."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "revision": revision,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "rank_pattern": {},
            "alpha_pattern": {},
            "bias": "none",
            "fan_in_fan_out": self.fan_in_fan_out,
            "init_lora_weights": True,
            "modules_to_save": None,
            "target_modules": sorted(self.a),
            "use_dora": False,
            "use_rslora": False,
        }


def adapter_of(bound: BoundModel, delta: SparseDelta, factors: LowRank | None) -> Adapter:
    """Write an alignment as LoRA factors.

    Args:
        bound: the base model; only its shapes and module types are read.
        delta: what changed.
        factors: the trained factors of a row-masked LoRA; None takes one-hot factors, exact.

    Raises:
        UnsupportedModelError: a weight is no linear projection of its own, or the rank would be
            above 512; the merged export has no such limit.
    """
    low = {} if factors is None else {one.name: one for one in factors.factors}
    rank = factors.rank if factors is not None else max(len(c.index) for c in delta.changes)
    if rank > HIGHEST_RANK:
        raise UnsupportedModelError(
            f"a weight has {rank} changed slices and servers take LoRA ranks up to {HIGHEST_RANK}."
            " Export the merged checkpoint instead, or tune fewer neurons a layer."
        )
    a: dict[str, Tensor] = {}
    b: dict[str, Tensor] = {}
    transposed = set()
    for change in delta.changes:
        module_name, module = _projection(bound, change.name)
        weight, swapped = seen(module.get_parameter("weight")), isinstance(module, Conv1D)
        transposed.add(swapped)
        outputs, inputs = (int(weight.shape[d]) for d in ((1, 0) if swapped else (0, 1)))
        rows = change.dim == (1 if swapped else 0)
        one, two = torch.zeros(rank, inputs), torch.zeros(outputs, rank)
        index = list(change.index)
        if change.name in low:
            one[:], two[index] = low[change.name].a.float(), low[change.name].b.float()
            two *= low[change.name].scaling
        else:
            step, place = change.new.float() - change.old.float(), range(len(index))
            if rows:
                one[place], two[index, place] = step, 1.0
            else:
                one[place, index], two[:, place] = 1.0, step.T
        a[module_name], b[module_name] = one, two
    return Adapter(rank, a, b, True in transposed)


def export_adapter(
    bound: BoundModel,
    folder: Path,
    *,
    delta: SparseDelta,
    factors: LowRank | None,
    stored: StoredReceipt,
    card: str,
    base: str,
    revision: str | None,
    finish: Callable[[Path], None] | None = None,
) -> Adapter:
    """Write the adapter's folder, complete or not at all: weights, config, card, receipt.

    Args:
        bound: the base model, without the delta.
        folder: where to; it must not exist.
        delta: what changed.
        factors: trained factors, or None for one-hot ones.
        stored: the alignment's receipt; checked against the base model first.
        card: text of the README.
        base: name or path of the base model, as PEFT should look it up.
        revision: its hub commit.
        finish: called with the folder once all else is in it.

    Raises:
        StoreError: `folder` exists.
        ReceiptError: `bound` is not the base model of this delta.
        UnsupportedModelError: as `adapter_of`.
    """
    must_be_free(folder)
    expect(bound, delta, "old")
    stored.check(bound)
    adapter = adapter_of(bound, delta, factors)
    text = json.dumps(adapter.config(base, revision), indent=2)
    with whole_folder(folder) as part:
        save_file(adapter.tensors(), part / "adapter_model.safetensors", metadata={"format": "pt"})
        (part / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")
        stored.save(part / "receipt.json")
        if finish is not None:
            finish(part)
    return adapter


def _projection(bound: BoundModel, name: str) -> tuple[str, nn.Module]:
    """The one linear module that a weight belongs to, by its name in the model."""
    path = name.rpartition(".")[0]
    weight = bound.model.get_parameter(name)
    holders = [
        (place, module)
        for place, module in bound.model.named_modules(remove_duplicate=False)
        if any(own is weight for own in module.parameters(recurse=False))
    ]
    linear = [module for _, module in holders if isinstance(module, nn.Linear | Conv1D)]
    if len(holders) != 1 or not linear or weight.dim() != 2:
        raise UnsupportedModelError(
            f"{name} cannot be a LoRA target: it is shared by {len(holders)} modules or is no"
            " plain linear projection. Export the merged checkpoint instead."
        )
    return path, linear[0]


def check_adapter(bound: BoundModel, folder: Path, stored: StoredReceipt) -> None:
    """Check that an adapter on disk moves the chosen neurons' slices of this base and no others.

    Raises:
        StoreError: the adapter's files cannot be read.
        ReceiptError: the base is another, or a factor reaches outside the chosen slices.
    """
    stored.check(bound)
    try:
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{folder} holds no readable adapter ({error}).") from error
    for one in slices_of(bound, stored.neurons, stored.form.roles):
        key = f"{PREFIX}{one.name.rpartition('.')[0]}"
        a = tensors.pop(f"{key}.lora_A.weight", None)
        b = tensors.pop(f"{key}.lora_B.weight", None)
        if a is None or b is None:
            raise ReceiptError(f"the adapter lacks its factors for {one.name}.")
        outer = (b if one.side == "out" else a.T).clone()  # [units of the side, rank]
        outer[list(one.index)] = 0
        if bool(outer.any()):
            raise ReceiptError(
                f"the adapter's factors for {one.name} reach outside the chosen neurons. It was"
                " changed after it was written."
            )
    if tensors:
        raise ReceiptError(
            f"the adapter moves {len(tensors)} tensors that the receipt does not name, the first"
            f" {min(tensors)}."
        )

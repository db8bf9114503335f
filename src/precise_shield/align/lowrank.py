"""The small form of a row-masked LoRA: its factors, a hundredth of the exact delta's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from precise_shield.align.delta import Deltas, RowLora
from precise_shield.align.headed import headed, packed, save_headed, unpacked
from precise_shield.align.slices import fingerprint, read_slices
from precise_shield.align.sparse import Change, SparseDelta
from precise_shield.core.errors import ReceiptError, StoreError
from precise_shield.core.sites import NeuronSet
from precise_shield.models.architecture.bind import BoundModel

SCHEMA_VERSION = 1
FORMAT = "precise-shield-low-rank"


@dataclass(frozen=True)
class Factors:
    """What was learnt about one weight: `b @ a * scaling` is added to its slices.

    Shapes: `a` is `[rank, fan]`, `b` `[units, rank]`, both in at least float32 on CPU.
    """

    name: str
    dim: int
    index: tuple[int, ...]
    a: Float[Tensor, "rank fan"]
    b: Float[Tensor, "units rank"]
    scaling: float
    base: str
    """SHA-256 of the whole weight before the change."""
    written: str
    """SHA-256 of the changed slices."""


@dataclass(frozen=True)
class LowRank:
    """All factors of one training, with what is needed to make the exact delta of them again."""

    factors: tuple[Factors, ...]
    neurons: NeuronSet
    rank: int
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, bound: BoundModel) -> bool:
        """Whether every weight is the one that the factors were trained beside."""
        weights = dict(bound.model.named_parameters())
        return all(
            one.name in weights and fingerprint(weights[one.name]) == one.base
            for one in self.factors
        )

    def expand(self, bound: BoundModel) -> SparseDelta:
        """The exact delta, for the base model that the factors were trained beside.

        Raises:
            ReceiptError: `bound` is another model, or this machine multiplies with another
                rounding, so that the result would not be what was measured.
        """
        weights = dict(bound.model.named_parameters())
        changes = []
        for one in self.factors:
            weight = weights.get(one.name)
            if weight is None or fingerprint(weight) != one.base:
                raise ReceiptError(
                    f"{one.name} is not the weight that this low-rank delta was trained beside."
                    " It belongs to another base model or dtype, or is applied already."
                )
            old = read_slices(weight, one.dim, one.index)
            a, b = one.a.to(old.device), one.b.to(old.device)
            new = (old.to(a.dtype) + (b @ a) * one.scaling).to(old.dtype)
            if fingerprint(new) != one.written:
                raise ReceiptError(
                    f"multiplied out on this machine, the factors of {one.name} differ in the last"
                    " bits from what was trained. Use the exact delta."
                )
            changes.append(Change(one.name, one.dim, one.index, old.cpu(), new.cpu(), one.base))
        return SparseDelta(tuple(changes), self.neurons, "lora_rows", self.rank, self.recipe)

    def save(self, path: Path) -> None:
        """Write one safetensors file.

        Raises:
            StoreError: something is already there.
        """
        tensors = packed({one.name: (one.index, {"a": one.a, "b": one.b}) for one in self.factors})
        weights = {
            one.name: {
                "dim": one.dim,
                "scaling": one.scaling,
                "base_sha256": one.base,
                "written_sha256": one.written,
            }
            for one in self.factors
        }
        header = {
            "schema_version": SCHEMA_VERSION,
            "rank": self.rank,
            "neurons": self.neurons.to_json(),
            "recipe": dict(self.recipe),
            "weights": weights,
        }
        save_headed(path, tensors, FORMAT, header)

    @classmethod
    def load(cls, path: Path) -> LowRank:
        """Read what `save` wrote.

        Raises:
            StoreError: the file is missing, none of ours, of another schema, or broken.
        """
        with headed(path, FORMAT, SCHEMA_VERSION, "low-rank delta") as (file, header):
            factors = tuple(
                Factors(
                    name,
                    int(facts["dim"]),
                    *unpacked(file, name, ("a", "b")),
                    float(facts["scaling"]),
                    facts["base_sha256"],
                    facts["written_sha256"],
                )
                for name, facts in header["weights"].items()
            )
            neurons = NeuronSet.from_json(header["neurons"])
            return cls(factors, neurons, int(header["rank"]), header["recipe"])


def is_low_rank(path: Path) -> bool:
    """Whether a safetensors file says that it holds factors.

    Raises:
        StoreError: it cannot be read at all.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return FORMAT in (file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read as a delta file: {error}") from error


def low_rank(deltas: Deltas) -> LowRank | None:
    """The factors of a finished `tuning` block; None for a form that has none.

    None, too, where routed experts were tuned: their factors are one pair an expert.
    """
    delta = deltas.sparse()
    parts = [part for part in deltas.parts if isinstance(part, RowLora)]
    if not parts or len(parts) != len(deltas.parts):
        return None
    factors = []
    for part, change in zip(parts, delta.changes, strict=True):
        wide = torch.promote_types(part.a.dtype, torch.float32)
        a, b = (value.detach().to("cpu", wide) for value in (part.a, part.b))
        written = fingerprint(change.new)
        factors.append(
            Factors(change.name, change.dim, change.index, a, b, part.scaling, change.base, written)
        )
    return LowRank(tuple(factors), deltas.neurons, delta.rank, delta.recipe)

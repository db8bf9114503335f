"""What an alignment changed, old and new, in a file small enough to send: apply it, undo it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precise_shield.align.headed import headed, packed, save_headed, unpacked
from precise_shield.align.slices import (
    WHOLE,
    changed,
    fingerprint,
    lines_of,
    read_slices,
    same_bits,
    write_slices,
)
from precise_shield.core.errors import GateError, ReceiptError
from precise_shield.core.sites import NeuronSet
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.holding.packed import seen

SCHEMA_VERSION = 1
FORMAT = "precise-shield-delta"


@dataclass(frozen=True)
class Change:
    """The changed slices of one weight.

    Shapes: `old` and `new` are `[units, fan]` on CPU in the weight's dtype, one slice a row
        whatever the weight's orientation.
    """

    name: str
    """Dotted name of the weight in `model.named_parameters()`."""
    dim: int
    """Dimension that counts slices; -1 where all of the weight changed, row by row."""
    index: tuple[int, ...]
    old: Float[Tensor, "units fan"]
    new: Float[Tensor, "units fan"]
    base: str
    """SHA-256 of the whole weight before the change."""


@dataclass(frozen=True)
class SparseDelta:
    """Every slice that an alignment changed, with the values before and after.

    Both are kept because bfloat16 `W + Δ − Δ` is not `W`. `save` and `load` use one
    safetensors file whose metadata holds the rest as JSON.
    """

    changes: tuple[Change, ...]
    neurons: NeuronSet
    form: str
    """`lora_rows`, `direct_units` or `all_parameters`."""
    rank: int
    """0 for the direct form."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How it was made; anything that JSON can hold."""

    def changed_weights(self) -> int:
        """Entries whose bits differ between old and new."""
        return sum(changed(change.old, change.new) for change in self.changes)

    def agrees(self, written: Mapping[str, str], path: str) -> None:
        """Check the new values against the hashes in a receipt; `path` names the file.

        Raises:
            ReceiptError: they are others.
        """
        hashes = {change.name: fingerprint(change.new) for change in self.changes}
        names = hashes.keys() | written.keys()
        if moved := sorted(name for name in names if hashes.get(name) != written.get(name)):
            raise ReceiptError(
                f"{path} does not hold what its receipt says; the first difference is in"
                f" {moved[0]}. It was changed after it was written."
            )

    def save(self, path: Path) -> None:
        """Write the file, complete or not at all.

        Raises:
            StoreError: something is already there.
        """
        tensors = packed({c.name: (c.index, {"old": c.old, "new": c.new}) for c in self.changes})
        header = {
            "schema_version": SCHEMA_VERSION,
            "form": self.form,
            "rank": self.rank,
            "neurons": self.neurons.to_json(),
            "recipe": dict(self.recipe),
            "weights": {c.name: {"dim": c.dim, "base_sha256": c.base} for c in self.changes},
        }
        save_headed(path, tensors, FORMAT, header)

    @classmethod
    def load(cls, path: Path) -> SparseDelta:
        """Read what `save` wrote.

        Raises:
            StoreError: the file is missing, no delta of ours, of another schema, or broken.
        """
        with headed(path, FORMAT, SCHEMA_VERSION, "delta file") as (file, header):
            changes = tuple(
                Change(
                    name,
                    int(facts["dim"]),
                    *unpacked(file, name, ("old", "new")),
                    facts["base_sha256"],
                )
                for name, facts in header["weights"].items()
            )
            neurons = NeuronSet.from_json(header["neurons"])
            return cls(changes, neurons, header["form"], int(header["rank"]), header["recipe"])


def apply(bound: BoundModel, delta: SparseDelta) -> None:
    """Put the new values in, bit for bit.

    Raises:
        ReceiptError: some slice does not hold the delta's old values; nothing was written.
    """
    _replace(bound, delta, "old")


def undo(bound: BoundModel, delta: SparseDelta) -> None:
    """Put the old values back, bit for bit.

    Raises:
        ReceiptError: some slice does not hold the delta's new values; nothing was written.
    """
    _replace(bound, delta, "new")


@contextmanager
def applied(bound: BoundModel, delta: SparseDelta) -> Iterator[None]:
    """The changed model, for the length of the block, however it ends."""
    apply(bound, delta)
    try:
        yield
    finally:
        undo(bound, delta)


def expect(bound: BoundModel, delta: SparseDelta, values: Literal["old", "new"]) -> None:
    """Check that every slice holds the delta's old, or its new, values bit for bit.

    Raises:
        ReceiptError: one does not; the weight is named.
    """
    weights = dict(bound.model.named_parameters())
    for change in delta.changes:
        _expect(weights, change, values)


def no_silence(bound: BoundModel, delta: SparseDelta, side: Literal["old", "new"]) -> None:
    """Refuse to put in values with which a neuron's slices all become zero: that suppresses it.

    Where all of a weight changed, that is a matter of weights that units own: a padding token's
    embedding, say, is zero at birth.

    Raises:
        GateError: some would; the weight is named.
    """
    owned = {own.name for spot in bound.sites.values() for own in spot.owned}
    for change in delta.changes:
        if change.dim == WHOLE and change.name not in owned:
            continue
        after, before = (change.new, change.old) if side == "new" else (change.old, change.new)
        silenced = (after == 0).all(1) & (before != 0).any(1)
        if change.dim == WHOLE and len(after) > 1:  # a unit may be a column of it
            silenced = torch.cat([silenced, (after == 0).all(0) & (before != 0).any(0)])
        if bool(torch.any(silenced)):
            raise GateError(
                f"{int(silenced.sum())} slices of {change.name} would become zero: that suppresses"
                " neurons, and a suppressed model is never written."
            )


def _replace(bound: BoundModel, delta: SparseDelta, expected: Literal["old", "new"]) -> None:
    expect(bound, delta, expected)
    weights = dict(bound.model.named_parameters())
    for change in delta.changes:
        values = change.new if expected == "old" else change.old
        write_slices(weights[change.name], change.dim, change.index, values)


def _expect(
    weights: Mapping[str, nn.Parameter], change: Change, expected: Literal["old", "new"]
) -> None:
    advice = (
        "The delta was made for another base model, or is already applied."
        if expected == "old"
        else "The delta is not applied to this model, or something changed it since."
    )
    if change.name not in weights:
        raise ReceiptError(f"this model has no weight {change.name}. {advice}")
    weight = weights[change.name]
    shown = seen(weight)
    want = change.old if expected == "old" else change.new
    view = lines_of(shown, change.dim) if change.dim < shown.dim() else shown.flatten()[None]
    shape = [len(change.index), int(view.shape[-1])]
    if list(want.shape) != shape or change.index[-1] >= view.numel() // view.shape[-1]:
        raise ReceiptError(
            f"{change.name} is {list(shown.shape)}; the delta's slices, {list(want.shape)}"
            f" along dimension {change.dim}, do not fit it. {advice}"
        )
    if want.dtype != shown.dtype:
        raise ReceiptError(
            f"{change.name} is {shown.dtype}, the delta {want.dtype}; applying it would not be"
            f" exact. Load the model in {want.dtype}."
        )
    held = read_slices(weight, change.dim, change.index).cpu()
    if not same_bits(held, want):
        moved = changed(held, want)
        raise ReceiptError(
            f"{moved} of {want.numel()} values in the slices of {change.name} are not the"
            f" {expected} values of this delta. {advice}"
        )

"""Proof that an alignment moved the chosen neurons' slices and not one bit more."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from precise_shield.align.delta import DeltaCounts
from precise_shield.align.parts import AllParameters, Form, form_name, form_of, form_slices
from precise_shield.align.slices import fingerprint
from precise_shield.align.sparse import SparseDelta
from precise_shield.core.errors import DataError, ReceiptError, StoreError
from precise_shield.core.sites import NeuronSet
from precise_shield.core.store import must_be_free
from precise_shield.core.summary import Receipt
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.holding.packed import bits_of, count

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Seal:
    """A hash of every tensor of a model, with the slices that may move left out."""

    tensors: Mapping[str, str]
    """SHA-256 of each parameter and saved buffer by name; shared ones appear once."""

    @property
    def digest(self) -> str:
        """One SHA-256 over all of them."""
        lines = "\n".join(f"{name} {value}" for name, value in sorted(self.tensors.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def seal(bound: BoundModel, neurons: NeuronSet, form: Form) -> Seal:
    """Hash everything that tuning `neurons` in this form must leave alone.

    Where all parameters train, that is the model's saved buffers and every parameter's shape.
    Reads every weight once, a chunk at a time; nothing is copied whole. Buffers that are not
    saved with a model (tables computed from its configuration) are left out: no change of
    theirs can reach a checkpoint.

    Raises:
        EmptySetError: there is no neuron.
        LayoutMismatchError: the neurons are not this model's.
    """
    model = bound.model
    slices = {one.name: one for one in form_slices(bound, neurons, form)}
    saved = model.state_dict(keep_vars=True).keys()
    tensors: dict[str, str] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in slices:
            tensors[name] = fingerprint(tensor, slices[name].dim, slices[name].index)
        elif name in saved:
            tensors[name] = fingerprint(tensor)
    return Seal(tensors)


def untouched_hash(bound: BoundModel, neurons: NeuronSet, form: Form) -> str:
    """The one hash of `seal`: what a receipt stores."""
    return seal(bound, neurons, form).digest


def verify(before: Seal, after: Seal) -> None:
    """Check that nothing outside the chosen slices moved.

    Raises:
        ReceiptError: a tensor moved, appeared or disappeared; it is named.
    """
    names = before.tensors.keys() | after.tensors.keys()
    moved = sorted(n for n in names if before.tensors.get(n) != after.tensors.get(n))
    if moved:
        raise ReceiptError(
            f"{len(moved)} of {len(names)} tensors changed outside the chosen neurons, the first"
            f" {moved[0]}. Do not use this model: undo the change, and train only"
            " deltas.parameters()."
        )


def check_receipt(
    receipt: Receipt,
    bound: BoundModel,
    neurons: NeuronSet,
    form: Form,
    recorded: Seal | None = None,
) -> None:
    """Check a model, loaded from disk say, against a receipt; `recorded` lets it name the tensor.

    Raises:
        ReceiptError: the model is not the one the receipt was made for.
    """
    found = seal(bound, neurons, form)
    if recorded is not None:
        verify(recorded, found)
    if found.digest != receipt.untouched_hash:
        raise ReceiptError(
            f"the untouched part of this model hashes to {found.digest[:16]}…, the receipt says"
            f" {receipt.untouched_hash[:16]}…. It is another base model, another dtype, or"
            " something outside the chosen neurons was changed."
        )


def make_receipt(
    bound: BoundModel,
    before: Seal,
    delta: SparseDelta,
    form: Form,
    counts: DeltaCounts,
    *,
    condition: str,
    steps: int,
    learning_rate: float,
    final_loss: float | None,
) -> Receipt:
    """Hash the tuned model again and, if nothing else moved, say what did.

    Args:
        bound: the model after merging.
        before: its `seal` before tuning.
        delta: what `Deltas.sparse` gave.
        form: how it was tuned.
        counts: what `Deltas.counts` gave.
        condition: the report's name for the tuned model, e.g. `aligned`.
        steps: optimiser steps taken.
        learning_rate: the highest used.
        final_loss: the last step's, or None if no step was taken.

    Raises:
        ReceiptError: something outside the chosen slices moved.
    """
    after = seal(bound, delta.neurons, form)
    verify(before, after)
    return Receipt(
        condition=condition,
        neurons=len(delta.neurons),
        form=delta.form,
        rank=delta.rank,
        trained_b_rows=counts.trained_b_rows,
        trained_with_a=counts.trained_with_a,
        changed_weights=delta.changed_weights(),
        model_parameters=count(bound.model),
        untouched_verified=True,
        untouched_hash=after.digest,
        steps=steps,
        learning_rate=learning_rate,
        final_loss=final_loss,
        quantised=bits_of(bound.model),
        everything=isinstance(form, AllParameters),
    )


@dataclass(frozen=True)
class StoredReceipt:
    """A receipt with what is needed to check it again: the content of `receipt.json`."""

    receipt: Receipt
    seal: Seal
    neurons: NeuronSet
    form: Form
    written: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the changed slices of each weight, after the change."""

    @property
    def digest(self) -> str:
        """One SHA-256 of what the alignment wrote, and of everything that it left alone."""
        lines = [f"{name} {value}" for name, value in sorted(self.written.items())]
        return hashlib.sha256("\n".join([self.seal.digest, *lines]).encode()).hexdigest()

    def check(self, bound: BoundModel) -> None:
        """Compare a model, merged or base, with the receipt.

        Raises:
            ReceiptError: a tensor differs outside the chosen slices; it is named.
        """
        check_receipt(self.receipt, bound, self.neurons, self.form, self.seal)

    def sealed(self, bound: BoundModel) -> Seal:
        """The seal of a model, with this receipt's slices left out."""
        return seal(bound, self.neurons, self.form)

    def check_written(self, bound: BoundModel) -> None:
        """Check that the chosen slices of a merged model are what the alignment wrote.

        Raises:
            ReceiptError: a slice holds something else; its weight is named.
        """
        for one in form_slices(bound, self.neurons, self.form):
            if fingerprint(one.read()) != self.written.get(one.name):
                raise ReceiptError(
                    f"the chosen neurons' slices of {one.name} are not what the alignment wrote."
                    " The model was changed afterwards, or is the base model."
                )

    def save(self, path: Path) -> None:
        """Write the file.

        Raises:
            StoreError: something is already there.
        """
        must_be_free(path)
        path.write_text(json.dumps(self.content(), indent=1) + "\n", encoding="utf-8")

    def content(self) -> dict[str, Any]:
        """What `save` writes, as plain data."""
        return {
            "schema_version": SCHEMA_VERSION,
            "receipt": self.receipt.model_dump(),
            "form": {"name": form_name(self.form), **asdict(self.form)},
            "neurons": self.neurons.to_json(),
            "untouched_sha256": dict(self.seal.tensors),
            "written_sha256": dict(self.written),
        }

    @classmethod
    def load(cls, path: Path) -> StoredReceipt:
        """Read what `save` wrote.

        Raises:
            StoreError: the file is missing, broken or of another schema.
        """
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")), str(path))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read as a receipt: {error}") from error

    @classmethod
    def of(cls, content: Mapping[str, Any], origin: str) -> StoredReceipt:
        """Read what `content` gave; `origin` names it in messages.

        Raises:
            StoreError: it is broken or of another schema.
        """
        try:
            if content["schema_version"] != SCHEMA_VERSION:
                raise StoreError(
                    f"{origin} has schema {content['schema_version']}, this version reads"
                    f" {SCHEMA_VERSION}. Use the version that wrote it."
                )
            form = dict(content["form"])
            return cls(
                Receipt(**content["receipt"]),
                Seal(content["untouched_sha256"]),
                NeuronSet.from_json(content["neurons"]),
                form_of(form.pop("name"), form),
                content.get("written_sha256", {}),
            )
        except (ValueError, KeyError, TypeError, DataError, ValidationError) as error:
            raise StoreError(f"{origin} cannot be read as a receipt: {error}") from error

"""How much memory and disk a training takes, said before it starts."""

from __future__ import annotations

from precise_shield.align.parts import AllParameters, Form, form_slices
from precise_shield.core.sites import NeuronSet
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.holding.packed import count
from precise_shield.workflows.base.context import Run

LARGE = 2**26
"""Bytes of a delta from which its size is announced before training."""


def announce(run: Run, name: str, neurons: NeuronSet, form: Form) -> None:
    """Say what full fine-tuning takes, and how large a large delta will be."""
    size = stored_bytes(run.bound, neurons, form)
    if isinstance(form, AllParameters):
        run.reporter.say(
            f"{name} trains all {count(run.bound.model):,} parameters: about"
            f" {training_bytes(run.bound) / 2**20:,.0f} MiB beside the model and its activations"
        )
    if size >= LARGE:
        run.reporter.say(f"{name} will store {size / 2**20:,.0f} MiB of old and new weights")


def stored_bytes(bound: BoundModel, neurons: NeuronSet, form: Form) -> int:
    """How large the delta of a training will be: every slice it may change, old and new."""
    return sum(
        2 * len(one.index) * one.fan * one.weight.element_size()
        for one in form_slices(bound, neurons, form)
    )


def training_bytes(bound: BoundModel) -> int:
    """What full fine-tuning takes beside the model.

    Per weight its delta, gradient and AdamW's two moments in float32, and the sum of weight and
    delta that the model computes with.
    """
    return sum(w.numel() * (16 + w.element_size()) for w in bound.model.parameters())

"""Strengthening without training: the chosen neurons' down columns, scaled up."""

from __future__ import annotations

import torch

from precise_shield.align.delta import DeltaCounts, DirectUnits
from precise_shield.align.slices import fingerprint, slices_of
from precise_shield.align.sparse import Change, SparseDelta
from precise_shield.core.errors import ConfigError, NumericError
from precise_shield.core.sites import NeuronSet
from precise_shield.models.architecture.bind import BoundModel

FORM = DirectUnits(parts=("down",))
"""What amplification moves, for the receipt."""

COUNTS = DeltaCounts(0, 0)
"""Nothing is trained."""


def amplified(bound: BoundModel, neurons: NeuronSet, factor: float) -> SparseDelta:
    """The delta that multiplies what every chosen neuron writes; the model is not changed.

    Scaling a column of the down-projection (of W_O; a row of W_Q, W_K or W_V with its bias) by f
    is the same, at every token, as scaling that neuron's activation by f.

    Raises:
        ConfigError: the factor is below 1: that would suppress, and a suppressed model is
            never written.
        NumericError: a scaled weight is infinite in the model's dtype.

    Source: Precise Shield, the training-free variant (factor and span are not printed).
    """
    if not factor >= 1:
        raise ConfigError(
            f"factor {factor} is below 1. Amplification strengthens; suppression is for"
            " measuring, in memory only."
        )
    changes = []
    for one in slices_of(bound, neurons, FORM.roles):
        old = one.read()
        wide = torch.promote_types(old.dtype, torch.float32)
        new = (old.to(wide) * factor).to(old.dtype)
        if not torch.isfinite(new).all():
            raise NumericError(
                f"{factor} times the columns of {one.name} overflows {old.dtype}; nothing was"
                " changed. Take a smaller factor, or load the model in bfloat16 or float32."
            )
        base = fingerprint(one.weight)
        changes.append(Change(one.name, one.dim, one.index, old.cpu(), new.cpu(), base))
    return SparseDelta(tuple(changes), neurons, "amplified", 0, {"factor": factor})

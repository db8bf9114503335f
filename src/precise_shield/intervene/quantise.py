"""Weights rounded to few bits and put back, in memory: what quantisation leaves of a change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from precise_shield.core.errors import ConfigError, UnsupportedModelError
from precise_shield.models.holding.packed import bits_of
from precise_shield.models.loading.weights import projections

GROUP = 128
"""Inputs that share a scale, where the width divides; else a whole row does."""


def rounded(
    weight: Float[Tensor, "out inputs"], bits: int, group: int = GROUP
) -> Float[Tensor, "out inputs"]:
    """The nearest weight of `bits` bits: symmetric, round to nearest, a scale a group of inputs.

    Raises:
        ConfigError: fewer than 2 or more than 8 bits.
    """
    if not 2 <= bits <= 8:
        raise ConfigError(f"{bits} bits: quantisation takes 2 to 8.")
    out, inputs = weight.shape
    size = group if inputs % group == 0 else inputs
    parts = weight.float().reshape(out, inputs // size, size)
    top = 2 ** (bits - 1) - 1
    scale = parts.abs().amax(-1, keepdim=True) / top
    steps = torch.where(scale > 0, parts / scale, 0.0).round().clamp(-top, top)
    back: Tensor = (steps * scale).reshape(out, inputs).to(weight.dtype)
    return back


@contextmanager
def quantised(model: PreTrainedModel, bits: int, group: int = GROUP) -> Iterator[None]:
    """Round every projection but the output head, and put every bit back afterwards.

    Linear layers, Conv1D and stacked experts, each along its inputs. A copy of the weights is kept
    in main memory for the length of the block. Embeddings, norms, routers and a vision tower's
    patch convolution stay as they are, as quantisation tools leave them.

    Raises:
        UnsupportedModelError: the model is quantised already.
    """
    if bits_of(model) is not None:
        raise UnsupportedModelError(
            "the model is quantised already (model.quantise), so there is nothing to round; set"
            " evaluate.audit_bits: [], or model.quantise: none."
        )
    found = list(projections(model))
    kept = [weight.detach().to("cpu", copy=True) for weight, _ in found]
    try:
        with torch.no_grad():
            for weight, inputs_first in found:
                for one in weight if weight.dim() == 3 else [weight]:
                    rows = one.T if inputs_first else one
                    rows.copy_(rounded(rows, bits, group))
        yield
    finally:
        with torch.no_grad():
            for (weight, _), before in zip(found, kept, strict=True):
                weight.copy_(before)

"""The weights of a model as values: are they finite, and which are they."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from precise_shield.core.errors import LoadingError
from precise_shield.models.architecture.layouts import DOWN, GATE_UP
from precise_shield.models.holding.held import fetched, is_offloaded, is_sharded, whole
from precise_shield.models.holding.packed import packed
from precise_shield.models.loading.files import first_line


def checked_fingerprint(model: nn.Module) -> str:
    """Hash all weights, and refuse those that hold NaN or infinity.

    Tied weights count once. Tensors are hashed side by side, a few at a time, and never
    copied as a whole where they already lie in main memory.

    Raises:
        LoadingError: names the first weight that is not finite.
    """
    named = sorted(name for name, _ in model.named_parameters())
    workers = (
        1 if is_sharded(model) or is_offloaded(model) else min(8, os.cpu_count() or 1)
    )  # shares meet in order
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(lambda name: _held_digest(model, name), named))
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def _held_digest(model: nn.Module, name: str) -> bytes:
    parent, _, own = name.rpartition(".")
    module = model.get_submodule(parent)
    with fetched(module):
        return _digest(name, module.get_parameter(own))


def _digest(name: str, held: Tensor) -> bytes:
    weight = whole(held).detach()
    if not torch.isfinite(weight).all():
        count = int((~torch.isfinite(weight)).sum())
        raise LoadingError(
            f"weight {name!r} holds {count} values that are NaN or infinite, of"
            f" {weight.numel()}; the checkpoint is damaged. Get it again from where it came."
        )
    few = packed(held)
    return tensor_digest(name if few is None else f"{name}|{few.kind}", weight)


def tensor_digest(name: str, weight: Tensor) -> bytes:
    """sha256 over a tensor's name, type, shape and bytes."""
    flat = weight.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    head = f"{name}|{weight.dtype}|{tuple(weight.shape)}|".encode()
    digest = hashlib.sha256(head)
    digest.update(flat.numpy().data)
    return digest.digest()


def projections(model: PreTrainedModel) -> Iterator[tuple[Tensor, bool]]:
    """Every matrix that multiplies activations, and whether its inputs come before its outputs.

    Linear layers, Conv1D (GPT-2, `[inputs, outputs]`), and stacks of experts, `[experts, ., .]`.
    Not the output head, embeddings, routers, norms, or a vision tower's patch convolution.
    """
    known: Any = model
    head = known.get_output_embeddings()
    for module in model.modules():
        if module is head:
            continue
        if isinstance(module, nn.Linear):
            yield module.weight, False
        elif isinstance(module, Conv1D):
            yield module.weight, True
        elif {GATE_UP, DOWN} <= module._parameters.keys():
            for name in (GATE_UP, DOWN):
                yield module.get_parameter(name), bool(getattr(module, "is_transposed"))  # noqa: B009


def why(error: Exception, read: Callable[..., Any]) -> str:
    """Why weights do not load, with the tensor at fault where shapes do not fit.

    The library writes those into a table on standard error, and raises without naming any; so
    `read` is asked once more, for what it would leave out.
    """
    if "mismatched" not in str(error):
        return first_line(error)
    wrong = sorted(read(ignore_mismatched_sizes=True)[1]["mismatched_keys"])
    name, stored, built = wrong[0]
    more = "" if len(wrong) == 1 else f", and {len(wrong) - 1} more do not fit"
    return (
        f"{name} is {list(stored)} in the checkpoint and {list(built)} by its config.json{more};"
        " they are not of one model"
    )

"""The weights of a model as values: are they finite, and which are they."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from precise_shield.core.errors import LoadingError


def checked_fingerprint(model: nn.Module) -> str:
    """Hash all weights, and refuse those that hold NaN or infinity.

    Tied weights count once. Tensors are hashed side by side, a few at a time, and never
    copied as a whole where they already lie in main memory.

    Raises:
        LoadingError: names the first weight that is not finite.
    """
    named = sorted(model.named_parameters())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(lambda row: _digest(*row), named))
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def _digest(name: str, weight: Tensor) -> bytes:
    if not torch.isfinite(weight).all():
        count = int((~torch.isfinite(weight)).sum())
        raise LoadingError(
            f"weight {name!r} holds {count} values that are NaN or infinite, of"
            f" {weight.numel()}; the checkpoint is damaged. Get it again from where it came."
        )
    return tensor_digest(name, weight)


def tensor_digest(name: str, weight: Tensor) -> bytes:
    """sha256 over a tensor's name, type, shape and bytes."""
    flat = weight.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    head = f"{name}|{weight.dtype}|{tuple(weight.shape)}|".encode()
    digest = hashlib.sha256(head)
    digest.update(flat.numpy().data)
    return digest.digest()

"""How a model's weights are held: whole, in shares of several processes, quantised, offloaded."""

from __future__ import annotations

from torch import nn
from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Whether processes hold shares of its weights, so that all of them must run it together."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())

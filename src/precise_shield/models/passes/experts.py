"""Routed experts while they run: the one implementation of them that can be listened to.

In transformers 5 the experts of a layer are stacked parameters of one module, without a
projection to hook. The library lets their computation be replaced by name; the replacement here
computes what its default, `grouped_mm`, computes, and calls back in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _grouped_linear

from precise_shield.core.errors import UnsupportedModelError
from precise_shield.models.architecture.layouts import DOWN, GATE_UP

NAME = "precise_shield"


@dataclass(frozen=True)
class Routing:
    """Which token goes to which expert in one pass, the rows sorted by expert."""

    tokens: Tensor
    """Token of each row, `[rows]`; a token has a row for each expert that it is routed to."""

    bounds: list[int]
    """Rows of expert e are `bounds[e]:bounds[e + 1]`."""

    total: int
    """Tokens of the pass."""

    def rows(self, expert: int) -> slice:
        """The rows of one expert; empty when no token was routed to it."""
        return slice(self.bounds[expert], self.bounds[expert + 1])


@dataclass(frozen=True)
class Ear:
    """What is called inside a stack of experts. Each may return a tensor to put in its place.

    `made(x, y, routing)`: gate and up, `[rows, 2 width]`, made of the tokens' `[rows, hidden]`.
    `neurons(h, routing)`: what the down-projections read, `[rows, width]`.
    `wrote(h, y, routing)`: what they make of it, `[rows, hidden]`, before the router's weights.
    """

    made: Callable[[Tensor, Tensor, Routing], Tensor] | None = None
    neurons: Callable[[Tensor, Routing], Tensor] | None = None
    wrote: Callable[[Tensor, Tensor, Routing], Tensor] | None = None


_EARS: dict[nn.Module, list[Ear]] = {}


@contextmanager
def listening(model: PreTrainedModel, ears: Mapping[nn.Module, Ear]) -> Iterator[None]:
    """Let each `ears[stack]` hear that stack of experts, for the length of the block.

    Blocks nest: an ear hears what the earlier ones put in place. The model's own implementation
    is back when the block ends, however it ends.

    Raises:
        UnsupportedModelError: the experts are spread over devices.
    """
    if any(bool(stack._is_expert_parallel) for stack in ears):
        raise UnsupportedModelError(
            "the experts are spread over several devices (expert parallelism), where one process"
            " sees only its own. Load the model without expert parallelism."
        )
    if not ears:
        yield
        return
    before: Any = model.get_experts_implementation()
    for stack, ear in ears.items():
        _EARS.setdefault(stack, []).append(ear)
    try:
        model.set_experts_implementation(NAME)
        yield
    finally:
        for stack, ear in ears.items():
            left = [one for one in _EARS.pop(stack) if one is not ear]
            if left:
                _EARS[stack] = left
        model.set_experts_implementation(before)


def _experts(stack: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Equal to the library's `grouped_mm`, bit for bit, while every ear only listens."""
    ears, each = _EARS.get(stack, []), index.size(-1)
    ids, order = torch.sort(index.reshape(-1))
    counts = torch.bincount(ids, minlength=stack.num_experts)
    ends = counts.cumsum(0)
    routing = Routing(order // each, [0, *ends.tolist()], len(hidden))
    offsets, x = ends.to(torch.int32), hidden[routing.tokens]

    def linear(value: Tensor, name: str) -> Tensor:
        bias = stack.get_parameter(f"{name}_bias")[ids] if stack.has_bias else None
        weight = stack.get_parameter(name)
        return _grouped_linear(value, weight, offsets, bias=bias, is_transposed=stack.is_transposed)

    y = linear(x, GATE_UP)
    for ear in ears:
        y = y if ear.made is None else ear.made(x, y, routing)
    h = stack._apply_gate(y)
    for ear in ears:
        h = h if ear.neurons is None else ear.neurons(h, routing)
    z = linear(h, DOWN)
    for ear in ears:
        z = z if ear.wrote is None else ear.wrote(h, z, routing)
    if stack.has_post_expert_norm:
        z = stack.post_expert_norm(z)
    weighted = z * weights.reshape(-1)[order].unsqueeze(-1)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return weighted[back].view(len(hidden), each, -1).sum(1).to(hidden.dtype)


ALL_EXPERTS_FUNCTIONS.register(NAME, _experts)

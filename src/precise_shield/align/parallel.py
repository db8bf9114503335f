"""Several processes on one training: each takes its share of a step's passes, all step alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Crew:
    """This process among those of a `torchrun`; alone without one.

    The trained part is as small as the chosen neurons, so it is held whole by every process and
    one sum a step carries all gradients.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what all of them know."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[tuple[int, T]]:
        """This process's part of a step, each item with its place in the whole."""
        return [(place, items[place]) for place in range(self.rank, len(items), self.size)]

    def total(self, *values: int | float) -> tuple[int | float, ...]:
        """Sums over all processes, in float64."""
        if self.size == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64, device=_device())
        distributed.all_reduce(sums)
        return tuple(sums.tolist())

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum every gradient over all processes, in one message a dtype."""
        if self.size == 1:
            return
        every = list(parameters)
        for parameter in every:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for dtype in {parameter.dtype for parameter in every}:
            kind = [p.grad for p in every if p.dtype == dtype and p.grad is not None]
            flat = torch.cat([grad.reshape(-1) for grad in kind])
            distributed.all_reduce(flat)
            parts = torch.split(flat, [grad.numel() for grad in kind])
            for grad, part in zip(kind, parts, strict=True):
                grad.copy_(part.view_as(grad))


def crew() -> Crew:
    """The processes that torch.distributed knows of, if it was set up."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Crew()
    return Crew(distributed.get_rank(), distributed.get_world_size())


def _device() -> torch.device:
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")

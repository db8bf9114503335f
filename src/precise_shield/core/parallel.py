"""Several processes at one task, as `torchrun` starts them; a crew of one without it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from precise_shield.core.errors import LostProcessError

T = TypeVar("T")
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@dataclass(frozen=True)
class Crew:
    """This process among those of a launch; alone without one.

    What it sends is numbers and JSON, never pickles. The parts that train are as small as the
    chosen neurons, so every process holds them whole and one sum a step carries all gradients.
    Every method but `leads`, `share` and `mine` has to be called by all processes.
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

    def mine(self, items: Sequence[T]) -> list[T]:
        """This process's part, without the places."""
        return [item for _, item in self.share(items)]

    def total(self, *values: int | float) -> tuple[int | float, ...]:
        """Sums over all processes, in float64."""
        if self.size == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64)
        self.add(sums)
        return tuple(sums.tolist())

    def add(self, tensor: Tensor) -> None:
        """Put the sum over all processes in the place of each one's tensor on the CPU."""
        if self.size == 1:
            return
        here = tensor.to(_device())
        with _answered():
            distributed.all_reduce(here)
        tensor.copy_(here)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum every gradient over all processes, in one message a dtype and device."""
        if self.size == 1:
            return
        every = list(parameters)
        for parameter in every:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for kind in sorted({(str(p.dtype), str(p.device)) for p in every}):
            grads = [
                p.grad
                for p in every
                if (str(p.dtype), str(p.device)) == kind and p.grad is not None
            ]
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            with _answered():
                distributed.all_reduce(flat)
            parts = torch.split(flat, [grad.numel() for grad in grads])
            for grad, part in zip(grads, parts, strict=True):
                grad.copy_(part.view_as(grad))

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank; anything that JSON can hold."""
        if self.size == 1:
            return [value]
        packed = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(packed)
        self.add(sizes)
        everyone = torch.zeros(self.size, int(sizes.max()), dtype=torch.uint8)
        everyone[self.rank, : len(packed)] = packed
        self.add(everyone)
        return [
            json.loads(row[:size].numpy().tobytes())
            for row, size in zip(everyone, sizes.tolist(), strict=True)
        ]

    def everyones(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All processes' tensors by name, bit for bit, on the CPU; equal names are equal values."""
        if self.size == 1:
            return dict(tensors)
        facts = [[name, str(one.dtype), list(one.shape)] for name, one in tensors.items()]
        found: dict[str, Tensor] = {}
        for rank, each in enumerate(self.gather(facts)):
            for name, dtype, shape in each:
                kind = getattr(torch, dtype.removeprefix("torch."))
                held = tensors[name] if rank == self.rank else torch.empty(shape, dtype=kind)
                bits = held.contiguous().reshape(-1).view(torch.uint8).to(_device())
                with _answered():
                    distributed.broadcast(bits, src=rank)
                if name not in found:
                    found[name] = bits.cpu().view(kind).view(shape)
        return found

    def as_leader(self, value: T) -> T:
        """The leading process's value, which must be JSON, in every process."""
        if self.size == 1:
            return value
        said: T = self.gather(value if self.leads else None)[0]
        return said

    def wait(self) -> None:
        """Until all processes are here."""
        self.total(0)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leading process runs the block before the others do."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """One process of a machine after the other, so that only one needs the room at a time."""
        turns = max(self.gather(int(os.environ.get("LOCAL_WORLD_SIZE", self.size))))
        mine = int(os.environ.get("LOCAL_RANK", self.rank))
        for _ in range(mine):
            self.wait()
        yield
        for _ in range(mine, turns):
            self.wait()


def crew() -> Crew:
    """The processes that torch.distributed knows of; this one alone inside `alone`."""
    there = distributed.is_available() and distributed.is_initialized()
    if _ALONE.get() or not there:
        return Crew()
    return Crew(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def alone() -> Iterator[None]:
    """Work that one process does by itself while the others wait: inside, there is no crew."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


@contextmanager
def _answered() -> Iterator[None]:
    """Say in a sentence that somebody is gone."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            f"another process of this launch has ended ({str(error).splitlines()[0][:200]}); what"
            " it said tells why. Finished stages are kept: the same command goes on."
        ) from error


def _device() -> torch.device:
    """Where numbers are summed: the CPU, unless the processes can only talk between GPUs."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")

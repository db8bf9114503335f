"""Join the processes of a `torchrun`, and share a model's blocks among them."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from precise_shield.core.errors import LaunchError
from precise_shield.core.parallel import crew

_PATIENCE = timedelta(days=14)
"""One process may work for days while the others wait; a dead one is noticed at once."""

_TO_SAY_IT = timedelta(seconds=10)

_STORES: list[Store] = []


def join(rank: int, size: int, local_rank: int) -> bool:
    """Meet the other processes, over gloo and between GPUs over NCCL; False if they had met.

    Raises:
        LaunchError: there are more processes than GPUs on this machine.
    """
    if distributed.is_initialized():
        return False
    backend = "gloo"
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise LaunchError(
                f"process {local_rank} of this machine finds {torch.cuda.device_count()} GPUs;"
                " start at most one process a GPU (--nproc-per-node)."
            )
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    store, _, _ = next(rendezvous("env://", rank, size, timeout=_PATIENCE))
    _STORES.append(PrefixStore("precise-shield", store))
    distributed.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    return True


def leave() -> None:
    """Part from the others when all are through."""
    crew().wait()
    distributed.destroy_process_group()
    _STORES.clear()


def fails_first() -> bool:
    """Whether no other process of this launch has failed before: asked once, on failing."""
    try:
        return all(int(store.add("failed", 1)) == 1 for store in _STORES)
    except RuntimeError:  # the process that kept the store is gone, and has said why
        return False


def has_said() -> None:
    """Tell the others that the reason is out."""
    with suppress(RuntimeError):
        for store in _STORES:
            store.set("said", "")


def hear() -> None:
    """Wait until the process that failed first has said why, or is gone, but not for long."""
    with suppress(RuntimeError):
        for store in _STORES:
            store.wait(["said"], _TO_SAY_IT)

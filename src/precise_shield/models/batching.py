"""Run work in batches, and in smaller ones where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from precise_shield.core.errors import UserError


def backing_off(parts: Iterable[list[int]], work: Callable[[list[int]], None]) -> None:
    """Call `work` on each part; a part that does not fit memory is halved and tried again.

    `work` must leave nothing behind when it fails. Later parts are cut to the size that
    was found to fit.

    Raises:
        UserError: one item alone does not fit.
    """
    fits: int | None = None
    for part in parts:
        waiting = [part]
        while waiting:
            now = waiting.pop(0)
            if fits is not None and len(now) > fits:
                waiting[:0] = [now[:fits], now[fits:]]
                continue
            if not _fitted(now, work):
                fits = len(now) // 2
                waiting.insert(0, now)


def _fitted(part: list[int], work: Callable[[list[int]], None]) -> bool:
    try:
        work(part)
    except torch.OutOfMemoryError:
        if len(part) == 1:
            raise UserError(
                "one example alone does not fit into memory; load the model in bfloat16, or take"
                " shorter answers, smaller pictures or another device."
            ) from None
    else:
        return True
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False

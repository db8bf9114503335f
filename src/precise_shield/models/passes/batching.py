"""Run work in batches, and in smaller ones where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from precise_shield.core.errors import UserError


def backing_off(
    parts: Iterable[list[int]],
    work: Callable[[list[int]], None],
    *,
    fits: int | None = None,
    after: Callable[[int | None], None] | None = None,
    cut: bool = True,
) -> None:
    """Call `work` on each part; a part that does not fit memory is halved and tried again.

    `work` must leave nothing behind when it fails. Later parts are cut to the size that
    was found to fit.

    Args:
        parts: indices of examples.
        work: what to do with them.
        fits: most items at a time, from an earlier call; None for as many as a part has.
        after: called with what fits once a part is done; giving that back as `fits` makes a
            later call cut the remaining parts as this one would have done.
        cut: False where several processes run the model together: one of them that cut its
            batch would fall out of step.

    Raises:
        UserError: one item alone does not fit, or a part that must not be cut.
    """
    for part in parts:
        waiting = [part]
        while waiting:
            now = waiting.pop(0)
            if fits is not None and len(now) > fits:
                waiting[:0] = [now[:fits], now[fits:]]
                continue
            if not _fitted(now, work, cut=cut):
                fits = len(now) // 2
                waiting.insert(0, now)
        if after is not None:
            after(fits)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on the CPU torch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _fitted(part: list[int], work: Callable[[list[int]], None], *, cut: bool = True) -> bool:
    try:
        work(part)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        if not cut:
            raise UserError(
                f"a batch of {len(part)} does not fit into memory, and the processes that share a"
                " model cannot cut it; lower the batch size of this stage."
            ) from None
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


def largest_fitting(attempt: Callable[[int], None], start: int, limit: int) -> int:
    """The largest size that runs, found by doing the real thing with doubling sizes.

    Args:
        attempt: runs the step with so many items, the most demanding ones; leaves nothing behind.
        start: the size to try first; where even that does not fit it is halved.
        limit: the size to stop at.

    Raises:
        UserError: one item alone does not fit.
    """
    size = min(start, limit)
    while not _fitted(list(range(size)), lambda part: attempt(len(part))):
        size //= 2
    while size < limit and _fitted(
        list(range(min(2 * size, limit))), lambda part: attempt(len(part))
    ):
        size = min(2 * size, limit)
    return size

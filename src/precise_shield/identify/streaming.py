"""A pass that can be cut: by memory, by an interruption, by a machine that goes down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from precise_shield.core.errors import StoreError
from precise_shield.core.records import Cell
from precise_shield.identify.collect import ACTIVATION, Batch, Quantity, empty, step
from precise_shield.identify.stats import POSITIONS, Position, Stats, progress_of
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.holding.held import is_sharded
from precise_shield.models.passes.batching import backing_off, largest_fitting


@dataclass
class Checkpoint:
    """Where an unfinished pass keeps its statistics, and how often it saves them.

    The file holds the statistics bit for bit and how many parts are in them; it is replaced in one
    step, so that killing the process at any moment leaves the older or the newer one.
    """

    path: Path
    seconds: float = 60.0
    """Least time between two savings."""

    share: float = 0.03
    """Most of a pass's time that saving may take: large states are saved less often."""

    def __post_init__(self) -> None:
        self._last = time.monotonic()
        self._took = 0.0

    def load(self) -> tuple[Stats, dict[str, int | None]] | None:
        """Statistics and progress of an interrupted pass; None where there is none.

        Raises:
            StoreError: the file is damaged.
        """
        if not self.path.is_file():
            return None
        progress = progress_of(self.path)
        if progress is None:
            raise StoreError(f"{self.path} is no unfinished pass; delete it and run again.")
        return Stats.load(self.path), progress

    def keep(self, stats: Stats, progress: dict[str, int | None]) -> None:
        """Save when it is time to."""
        now = time.monotonic()
        if now - self._last < max(self.seconds, self._took / self.share):
            return
        stats.save(self.path, progress)
        self._last = time.monotonic()
        self._took = self._last - now

    def drop(self) -> None:
        """The pass is through; what it kept is not needed any more."""
        self.path.unlink(missing_ok=True)


def stream(
    bound: BoundModel,
    cells: Iterable[Cell],
    parts: Callable[[int], Sequence[list[int]]],
    make: Callable[[list[int]], Batch],
    *,
    batch_size: int,
    quantity: Quantity = ACTIVATION,
    folded: Iterable[Position] = POSITIONS,
    checkpoint: Checkpoint | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Stats:
    """`collect`, part by part: cut where memory runs out, taken up where it was interrupted.

    An interrupted pass that is taken up gives the statistics of an uninterrupted one bit for bit:
    the same batches in the same order, whatever the batch size asked for by then.

    Args:
        bound: the model and its sites.
        cells: language x modality x harm.
        parts: batches of example indices for a batch size, in a fixed order; an empty one runs an
            example and forgets it, where the model is run by several processes together.
        make: the examples of a part as a batch.
        batch_size: most examples a forward pass.
        quantity: what is read.
        folded: positions that keep folds.
        checkpoint: where to save an unfinished pass; None does not.
        on_batch: called with the number of examples read.

    Raises:
        UserError: one example alone does not fit memory.
        DeadTapError, NumericError, DataError: see `collect`.
    """
    found = None if checkpoint is None else checkpoint.load()
    stats, done, fits = empty(bound, cells, folded), 0, None
    if found is not None:
        stats, progress = found
        done, fits = progress["done"] or 0, progress["fits"]
        batch_size = progress["batch_size"] or batch_size
    todo = list(parts(batch_size))
    if on_batch is not None and done:
        on_batch(sum(map(len, todo[:done])))

    def work(part: list[int]) -> None:
        if not part:
            aside = Stats(stats.norms, stats.cells, folded=frozenset())
            step(bound, aside, make([0]), quantity)
            return
        step(bound, stats, make(part), quantity)
        if on_batch is not None:
            on_batch(len(part))

    def after(fits: int | None) -> None:
        nonlocal done
        done += 1
        if checkpoint is not None:
            checkpoint.keep(stats, {"done": done, "fits": fits, "batch_size": batch_size})

    backing_off(todo[done:], work, fits=fits, after=after, cut=not is_sharded(bound.model))
    return stats


def fitting_batch(
    bound: BoundModel,
    longest: Sequence[int],
    make: Callable[[list[int]], Batch],
    quantity: Quantity = ACTIVATION,
    start: int = 8,
) -> int:
    """The largest batch that fits memory, by reading the longest examples for real and forgetting.

    Args:
        bound: the model and its sites.
        longest: example indices, the longest first; their number is the largest batch tried.
        make: the examples of a part as a batch.
        quantity: what is read.
        start: the size to try first.

    Raises:
        UserError: one example alone does not fit memory.
    """

    def attempt(size: int) -> None:
        batch = make(list(longest[:size]))
        step(bound, empty(bound, set(batch.cells), folded=()), batch, quantity)

    return largest_fitting(attempt, start, len(longest))

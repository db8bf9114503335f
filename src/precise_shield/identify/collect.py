"""Streaming passes over the probing data: activations or another quantity in, statistics out.

Averaged within an example first, so that a long answer counts once (Precise Shield, Eq. 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from precise_shield.core.errors import DataError
from precise_shield.core.moments import FOLDS
from precise_shield.core.records import Cell
from precise_shield.core.sites import Site
from precise_shield.identify.stats import POSITIONS, Place, Position, Stats
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.architecture.pictures import picture_means, rows_a_picture
from precise_shield.models.passes.taps import tapped


@dataclass(frozen=True)
class Batch:
    """Encoded examples, and which of their tokens count.

    Shapes: every mask and `labels` are `[batch, pos]`; `folds` is `[batch]`.
    """

    inputs: Mapping[str, Tensor]
    """Arguments of the backbone's forward pass."""

    cells: list[Cell]
    folds: Int[Tensor, " batch"]
    masks: Mapping[Position, Bool[Tensor, "batch pos"]]

    labels: Int[Tensor, "batch pos"] | None = None
    """The token itself where the answer stands, -100 elsewhere: what gradients are taken of."""

    categories: Sequence[str | None] = ()
    """Each example's harm category, where statistics are kept of those too; None has none."""

    def weights(self) -> dict[Position, Float[Tensor, "batch pos"]]:
        """What each token counts in the mean over its example's positions; rows sum to 1."""
        return {at: mask.float() / mask.sum(1, keepdim=True) for at, mask in self.masks.items()}


Emit = Callable[[Site, Position, Float[Tensor, "batch width"]], None]
"""Called once a site and position with one row an example."""


@dataclass(frozen=True)
class Quantity:
    """What is streamed of every unit and example, and the pass that reads it.

    Cells, folds, sets, nulls and bootstrap treat all quantities alike.
    """

    name: str
    read: Callable[[BoundModel, Batch, Emit], None]
    """Run the model on a batch and emit the quantity at every site and position of its masks."""

    meaning: str
    """One sentence: what a row holds, and its unit."""

    batch_size: int | None = None
    """Most examples in a batch; None where the configuration decides alone."""

    answers: bool = False
    """It needs the answers' tokens, whatever the position."""


def _activation(bound: BoundModel, batch: Batch, emit: Emit) -> None:
    """Means over an example's positions.

    In the vision tower over all patches of its one picture, whatever the position: a patch has
    no place in the text.
    """
    weights, kind = batch.weights(), bound.model.config.model_type
    pictures = len(batch.cells) if any(site.tower == "vision" for site in bound.sites) else 0
    rows = rows_a_picture(kind, batch.inputs, pictures) if pictures else []

    def fn(site: Site, acts: Tensor) -> None:
        if site.tower == "vision":
            mean = picture_means(acts, rows)
            for position in weights:
                emit(site, position, mean)
            return
        for position, weight in weights.items():
            emit(site, position, torch.einsum("bp,bpw->bw", weight.to(acts.device), acts.float()))

    with torch.no_grad(), tapped(bound, fn):
        bound.backbone(**batch.inputs, use_cache=False)


ACTIVATION = Quantity(
    "activation",
    _activation,
    "mean activation over the example's positions (over its picture's patches in a vision tower),"
    " in the model's scale",
)


def collect(
    bound: BoundModel,
    cells: Iterable[Cell],
    batches: Iterable[Batch],
    on_batch: Callable[[int], None] | None = None,
    quantity: Quantity = ACTIVATION,
) -> Stats:
    """Read one quantity of every batch and keep only running statistics.

    Memory is `O(sites x cells x positions x folds x width)`, however many batches there are.

    Raises:
        DeadTapError: some site never fired.
        NumericError: a value is NaN or infinite.
        DataError: an example has no token at a wanted position, or is in none of `cells`.
    """
    stats = empty(bound, cells)
    for batch in batches:
        step(bound, stats, batch, quantity)
        if on_batch is not None:
            on_batch(len(batch.cells))
    return stats


def empty(
    bound: BoundModel, cells: Iterable[Cell], folded: Iterable[Position] = POSITIONS
) -> Stats:
    """Statistics of a model before anything was read."""
    norms = {site: spot.column_norms() for site, spot in bound.sites.items()}
    return Stats(norms, tuple(sorted(cells)), folded=frozenset(folded))


def step(bound: BoundModel, stats: Stats, batch: Batch, quantity: Quantity = ACTIVATION) -> None:
    """Read one batch; the statistics change when its pass is through, or not at all.

    So a batch that ran out of memory half-way can be cut and tried again without counting twice.
    """
    number = {cell: i for i, cell in enumerate(stats.cells)}
    _check(batch, number)
    where = torch.tensor([number[cell] for cell in batch.cells])
    read: list[tuple[Place, Tensor]] = []

    def emit(site: Site, position: Position, rows: Tensor) -> None:
        read.append((Place(site, position, quantity.name), rows.detach()))

    quantity.read(bound, batch, emit)
    for place, rows in read:
        stats.fold_in(place, rows, where, batch.folds)
        if batch.categories:
            stats.fold_in_category(place, rows, batch.folds, batch.categories)


def _check(batch: Batch, known: Mapping[Cell, int]) -> None:
    for position, mask in batch.masks.items():
        empty = (~mask.any(1)).nonzero().flatten().tolist()
        if empty:
            raise DataError(
                f"an example of cell {batch.cells[empty[0]]} has no token at position"
                f" {position!r}; choose another position or give the example a response or picture."
            )
    strange = set(batch.cells) - set(known)
    if strange:
        raise DataError(f"cell {min(strange)} was not announced before collecting.")


def state_bytes(bound: BoundModel, cells: int, positions: int, unfolded: int = 0) -> int:
    """How large the statistics of one quantity will be in memory, before anything runs.

    Args:
        bound: the model and its sites.
        cells: language x modality x harm.
        positions: those that keep folds.
        unfolded: those that do not.
    """
    width = sum(spot.width for spot in bound.sites.values())
    return 4 * 8 * width * cells * (FOLDS * positions + unfolded)

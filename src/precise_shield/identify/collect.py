"""Streaming passes over the probing data: activations or another quantity in, statistics out.

Averaged within an example first, so that a long answer counts once (Precise Shield, Eq. 4).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from precise_shield.core.errors import DataError, StoreError
from precise_shield.core.moments import FIELDS, FOLDS, Moments
from precise_shield.core.parallel import Crew
from precise_shield.core.records import Cell
from precise_shield.core.sites import Site
from precise_shield.core.tensors import write_tensors
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.architecture.pictures import picture_means, rows_a_picture
from precise_shield.models.passes.taps import tapped

Position = Literal["response_mean", "first_decision", "last_prompt", "prompt_mean", "image_mean"]
"""Where an example's activations are read. `response_mean`: mean over the positions that predict
the response's tokens. `first_decision`: the one that predicts its first token, the last of the
template's opening of the answer. `last_prompt`: the last token of the user's own words, before the
template closes the turn. `prompt_mean` and `image_mean`: mean over all of the prompt's tokens,
template and picture included, and over the picture's alone."""

POSITIONS: tuple[Position, ...] = get_args(Position)
SCHEMA_VERSION = 2


class Place(NamedTuple):
    """What a statistic is of: a site, a position in the text, and a quantity that is read there."""

    site: Site
    position: Position
    quantity: str = "activation"

    def __str__(self) -> str:
        return f"{self.site}|{self.position}|{self.quantity}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read `str()` back; without a quantity it is the activation (schema 1)."""
        site, position, *quantity = text.split("|")
        return cls(Site.parse(site), cast(Position, position), *quantity)


@dataclass
class Stats:
    """What the scores are computed from: no score needs the model again.

    Shapes: `norms[site]` is `[width]`, the L2 norm of each unit's down-projection column.
        `moments[place]` has a fold for each cell and fold of the groups: fold f of the i-th
        cell is its fold `i * n + f`, n being 16, or 1 at a position that is not `folded`.
    """

    norms: dict[Site, Float[Tensor, " width"]]
    cells: tuple[Cell, ...]
    moments: dict[Place, Moments] = field(default_factory=dict)
    folded: frozenset[Position] = frozenset(POSITIONS)
    """Positions that keep the folds which bootstrap, halves and shuffled labels need."""

    origin: dict[str, str] = field(default_factory=dict)
    """Where they come from: model and data, by fingerprint."""

    def at(
        self, site: Site, cell: Cell, position: Position, quantity: str = "activation"
    ) -> Moments:
        """The moments of one site in one cell: a view.

        Raises:
            DataError: nothing was collected there.
        """
        place = Place(site, position, quantity)
        if place not in self.moments or cell not in self.cells:
            raise DataError(
                f"no statistics for {place} in cell {cell}; collected:"
                f" {', '.join(map(str, self.moments)) or 'nothing'} in"
                f" {', '.join(map(str, self.cells))}."
            )
        folds = self.moments[place].folds // len(self.cells)
        start = self.cells.index(cell) * folds
        return self.moments[place].part(start, start + folds)

    def marginal(
        self, site: Site, category: str, position: Position, quantity: str = "activation"
    ) -> Moments:
        """The moments of one harm category over all languages and modalities.

        Raises:
            DataError: no such category was collected.
        """
        place = Place(site, position, f"{quantity}#{category}")
        if place not in self.moments:
            raise DataError(
                f"no statistics of category {category!r} at {position}; collected:"
                f" {', '.join(self.categories()) or 'none'}."
            )
        return self.moments[place]

    def categories(self) -> list[str]:
        """Harm categories with statistics of their own."""
        return sorted({p.quantity.partition("#")[2] for p in self.moments if "#" in p.quantity})

    def collected(self, site: Site, position: Position, quantity: str, category: str = "") -> bool:
        """Whether a quantity was read at a site and position, of a category if one is named."""
        name = f"{quantity}#{category}" if category else quantity
        return Place(site, position, name) in self.moments

    def merge(self, other: Stats) -> None:
        """Absorb another shard's or another quantity's statistics of the same cells.

        `other` is left as it was.
        """
        if other.cells != self.cells:
            raise ValueError("shards must be collected with the same cells to be merged")
        for place, moments in other.moments.items():
            self._moments(place).merge(moments)

    def add_up(self, team: Crew) -> None:
        """Put the shards of all processes together; each of them ends with the whole."""
        for name in sorted(set().union(*team.gather([str(place) for place in self.moments]))):
            self._moments(Place.parse(name)).add_up(team)

    def _moments(self, place: Place) -> Moments:
        if place not in self.moments:
            folds = FOLDS if place.position in self.folded else 1
            cells = 1 if "#" in place.quantity else len(self.cells)
            self.moments[place] = Moments(len(self.norms[place.site]), folds * cells)
        return self.moments[place]

    def fold_in(
        self,
        place: Place,
        rows: Float[Tensor, "rows width"],
        cells: Int[Tensor, " rows"],
        folds: Int[Tensor, " rows"],
    ) -> None:
        """Add one row an example; `cells` are indices into `self.cells`."""
        moments = self._moments(place)
        count = moments.folds // len(self.cells)
        moments.update(rows, cells * count + folds % count)

    def fold_in_category(
        self,
        place: Place,
        rows: Float[Tensor, "rows width"],
        folds: Int[Tensor, " rows"],
        categories: Sequence[str | None],
    ) -> None:
        """Add rows to the statistics of their category, which are never crossed with cells."""
        for name in sorted({one for one in categories if one is not None}):
            here = torch.tensor([i for i, one in enumerate(categories) if one == name])
            own = place._replace(quantity=f"{place.quantity}#{name}")
            moments = self._moments(own)
            moments.update(rows[here.to(rows.device)], folds[here] % moments.folds)

    def bytes(self) -> int:
        """Size of the state in memory; it depends on cells and units, never on prompts."""
        return sum(4 * 8 * m.folds * m.width for m in self.moments.values())

    def save(self, path: Path, progress: Mapping[str, object] | None = None) -> None:
        """Write as safetensors: `norm|<site>` and `<site>|<position>|<quantity>|<field>`.

        Fields are those of `Moments`, `[cells x folds, width]`; the metadata names the cells, and
        keeps the `progress` of a pass that is not through. The file is there whole or not at all.
        """
        tensors = {f"norm|{site}": norm.contiguous() for site, norm in self.norms.items()}
        for place, moments in self.moments.items():
            tensors |= {f"{place}|{name}": getattr(moments, name) for name in FIELDS}
        header = {
            "stats": SCHEMA_VERSION,
            "cells": list(map(str, self.cells)),
            "folded": sorted(self.folded),
            "origin": self.origin,
            "progress": None if progress is None else dict(progress),
        }
        write_tensors(path, tensors, {"schema": json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> Stats:
        """Read `save` back, or a file of schema 1, whose names lack the quantity.

        Raises:
            StoreError: the file is missing, damaged, or of another schema.
        """
        schema, tensors = _read(path)
        folded: Iterable[Position] = schema.get("folded", POSITIONS)
        stats = cls({}, tuple(map(Cell.parse, schema["cells"])), folded=frozenset(folded))
        stats.origin = dict(schema.get("origin", {}))
        for name in [name for name in tensors if name.startswith("norm|")]:
            stats.norms[Site.parse(name.removeprefix("norm|"))] = tensors.pop(name)
        for name, tensor in tensors.items():
            place, _, part = name.rpartition("|")
            setattr(stats._moments(Place.parse(place)), part, tensor)
        return stats


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            schema = json.loads((file.metadata() or {}).get("schema", "{}"))
            if schema.get("stats") not in {1, SCHEMA_VERSION}:
                raise StoreError(
                    f"{path} has schema {schema}, expected stats 1 or {SCHEMA_VERSION}."
                )
            return schema, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read as statistics ({error}).") from error


def progress_of(path: Path) -> dict[str, Any] | None:
    """How far the pass had come that wrote this file; None when it was through.

    Raises:
        StoreError: the file is no statistics file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            schema = json.loads((file.metadata() or {}).get("schema", "{}"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read as statistics ({error}).") from error
    progress: dict[str, Any] | None = schema.get("progress")
    return progress


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

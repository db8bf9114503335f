"""What a pass over the probing data leaves: statistics by place and cell, in memory and on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from precise_shield.core.errors import DataError, StoreError
from precise_shield.core.moments import FIELDS, FOLDS, Moments
from precise_shield.core.parallel import Crew
from precise_shield.core.records import Cell
from precise_shield.core.sites import Site
from precise_shield.core.tensors import write_tensors

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


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A statistics file and what its header says; what cannot be read is a `StoreError`."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file, json.loads((file.metadata() or {}).get("schema", "{}"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read as statistics ({error}).") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with _opened(path) as (file, schema):
        if schema.get("stats") not in {1, SCHEMA_VERSION}:
            raise StoreError(f"{path} has schema {schema}, expected stats 1 or {SCHEMA_VERSION}.")
        return schema, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def progress_of(path: Path) -> dict[str, Any] | None:
    """How far the pass had come that wrote this file; None when it was through.

    Raises:
        StoreError: the file is no statistics file.
    """
    with _opened(path) as (_, schema):
        progress: dict[str, Any] | None = schema.get("progress")
        return progress

"""One streaming pass over the probing data: activations in, statistics out.

Averaged within an example first, so that a long answer counts once (Precise Shield, Eq. 4).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from precise_shield.core.errors import DataError, StoreError
from precise_shield.core.moments import FOLDS, Moments
from precise_shield.core.records import Cell
from precise_shield.core.sites import Site
from precise_shield.models.bind import BoundModel
from precise_shield.models.taps import tapped

Position = Literal["response_mean", "last_prompt", "prompt_mean", "image_mean"]
"""Where an example's activations are read. `response_mean`: mean over the positions that predict
the response's tokens. `last_prompt`: the one that predicts its first token. `prompt_mean` and
`image_mean`: mean over the prompt's and the picture's own tokens."""

POSITIONS: tuple[Position, ...] = get_args(Position)
SCHEMA_VERSION = 1


class StatKey(NamedTuple):
    """Which moments: of a site, in a cell, at a position."""

    site: Site
    cell: Cell
    position: Position

    def __str__(self) -> str:
        return f"{self.site}|{self.cell}|{self.position}"

    @classmethod
    def parse(cls, text: str) -> StatKey:
        """Read `str()` back."""
        site, cell, position = text.split("|")
        return cls(Site.parse(site), Cell.parse(cell), position)  # type: ignore[arg-type]


@dataclass
class Stats:
    """What the scores are computed from: no score needs the model again.

    Shapes: `norms[site]` is `[width]`, the L2 norm of each unit's down-projection column.
    """

    norms: dict[Site, Float[Tensor, " width"]]
    moments: dict[StatKey, Moments] = field(default_factory=dict)

    def at(self, site: Site, cell: Cell, position: Position) -> Moments:
        """The moments of one site in one cell.

        Raises:
            DataError: nothing was collected there.
        """
        key = StatKey(site, cell, position)
        if key not in self.moments:
            raise DataError(
                f"no statistics for {key}; collected: {', '.join(map(str, self.cells()))}"
            )
        return self.moments[key]

    def cells(self) -> list[Cell]:
        """Every cell with statistics, sorted."""
        return sorted({key.cell for key in self.moments})

    def merge(self, other: Stats) -> None:
        """Absorb another shard's statistics; `other` is left as it was."""
        for key, moments in other.moments.items():
            self._moments(key).merge(moments)

    def _moments(self, key: StatKey) -> Moments:
        if key not in self.moments:
            self.moments[key] = Moments(len(self.norms[key.site]))
        return self.moments[key]

    def fold_in(self, key: StatKey, rows: Float[Tensor, "rows width"], folds: Tensor) -> None:
        """Add one row an example to the moments under `key`."""
        self._moments(key).update(rows, folds)

    def bytes(self) -> int:
        """Size of the state in memory; it depends on cells and units, never on prompts."""
        return sum(4 * 8 * m.folds * m.width for m in self.moments.values())

    def save(self, path: Path) -> None:
        """Write as safetensors: `norm|<site>`, and `<site>|<cell>|<position>|<field>`.

        Fields are `count`, `mean`, `m2`, `magnitude`, `positive`, as in `Moments`.
        """
        tensors = {f"norm|{site}": norm.contiguous() for site, norm in self.norms.items()}
        for key, moments in self.moments.items():
            for name in ("count", "mean", "m2", "magnitude", "positive"):
                tensors[f"{key}|{name}"] = getattr(moments, name)
        partial = path.with_name(path.name + ".partial")
        save_file(tensors, partial, metadata={"schema": json.dumps({"stats": SCHEMA_VERSION})})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Stats:
        """Read `save` back.

        Raises:
            StoreError: the file is missing, damaged, or of another schema.
        """
        try:
            with safe_open(path, framework="pt") as file:
                schema = json.loads((file.metadata() or {}).get("schema", "{}"))
                if schema.get("stats") != SCHEMA_VERSION:
                    raise StoreError(
                        f"{path} has schema {schema}, expected stats {SCHEMA_VERSION}."
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(f"{path} cannot be read as statistics ({error}).") from error
        stats = cls({})
        for name, tensor in tensors.items():
            if name.startswith("norm|"):
                stats.norms[Site.parse(name.removeprefix("norm|"))] = tensor
        for name, tensor in tensors.items():
            if not name.startswith("norm|"):
                key, part = name.rsplit("|", 1)
                setattr(stats._moments(StatKey.parse(key)), part, tensor)
        return stats


@dataclass(frozen=True)
class Batch:
    """What collecting needs to know of one forward pass.

    Shapes: every mask is `[batch, pos]`; `first` is `[batch]`.
    """

    run: Callable[[], object]
    """Runs the backbone on the batch."""

    cells: list[Cell]
    folds: Tensor
    masks: Mapping[Position, Bool[Tensor, "batch pos"]]


def collect(
    bound: BoundModel, batches: Iterable[Batch], on_batch: Callable[[int], None] | None = None
) -> Stats:
    """Run every batch once and keep only running statistics.

    Memory is `O(sites x cells x positions x folds x width)`, however many batches there are.

    Raises:
        DeadTapError: some site never fired.
        NumericError: an activation is NaN or infinite.
        DataError: an example has no token at a wanted position.
    """
    stats = Stats({site: spot.column_norms() for site, spot in bound.sites.items()})
    with torch.no_grad():
        for batch in batches:
            with _reading(bound, batch, stats):
                batch.run()
            if on_batch is not None:
                on_batch(len(batch.cells))
    return stats


@contextmanager
def _reading(bound: BoundModel, batch: Batch, stats: Stats) -> Iterator[None]:
    weights = {}
    for position, mask in batch.masks.items():
        tokens = mask.sum(1, keepdim=True)
        if (tokens == 0).any():
            row = int((tokens == 0).nonzero()[0, 0])
            raise DataError(
                f"an example of cell {batch.cells[row]} has no token at position {position!r};"
                " choose another position or give the example a response or picture."
            )
        weights[position] = mask.float() / tokens
    members = {
        cell: [i for i, c in enumerate(batch.cells) if c == cell] for cell in set(batch.cells)
    }

    def fn(site: Site, acts: Tensor) -> None:
        for position, weight in weights.items():
            rows = torch.einsum("bp,bpw->bw", weight.to(acts.device), acts.float()).cpu()
            for cell, index in members.items():
                stats.fold_in(StatKey(site, cell, position), rows[index], batch.folds[index])

    with tapped(bound, fn):
        yield


def state_bytes(bound: BoundModel, cells: int, positions: int) -> int:
    """How large the statistics will be in memory, before anything runs."""
    return sum(4 * 8 * FOLDS * spot.width for spot in bound.sites.values()) * cells * positions

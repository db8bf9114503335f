"""What a unit is in a model's memory: where it is read, the weights it owns, what it writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precise_shield.models.holding.held import fetched, put_back, whole
from precise_shield.models.holding.packed import packed

Role = Literal[
    "gate", "up", "down", "query", "key", "value", "query_bias", "key_bias", "value_bias", "out"
]
"""What a weight does for its unit. `down` and `out` write (columns), the others make the unit."""

WRITING: tuple[Role, ...] = ("down", "out")

Point = Literal["input", "output", "experts"]
"""Where a site's values pass: into its reader, out of it, or inside a stack of experts."""


def unit_major(weight: Tensor, dim: int) -> Tensor:
    """A view of a weight whose second-last dimension counts units: `[*experts, units, fan]`.

    `dim` is the dimension that counts units: 0 or 1 of a matrix, 1 or 2 of the matrices of all
    experts stacked, 0 of a bias, whose fan is 1.
    """
    return weight.unsqueeze(1) if weight.dim() == 1 else weight.transpose(dim, -2)


def read_rows(weight: Tensor, dim: int, index: Iterable[int]) -> Float[Tensor, "units fan"]:
    """Copy the slices at `index`, one a row of the result.

    Positions count along `dim`; in stacked experts they go on from one expert to the next, so
    position j of expert e is `e * size + j`.
    """
    view = unit_major(whole(weight).detach(), dim)
    return view[_where(view, index)]


def write_rows(
    weight: Tensor, dim: int, index: Iterable[int], values: Float[Tensor, "units fan"]
) -> None:
    """Put `values`, shaped as `read_rows` gives them, in place; beside a quantised weight."""
    if (few := packed(weight)) is not None:
        few.write(dim, list(index), values)
        return
    with torch.no_grad():
        values_of = whole(weight)
        view = unit_major(values_of, dim)
        view[_where(view, index)] = values.to(weight.device)
        put_back(weight, values_of)


def _where(view: Tensor, index: Iterable[int]) -> tuple[Tensor, ...]:
    flat = torch.tensor(list(index), dtype=torch.long, device=view.device)
    if view.dim() == 2:
        return (flat,)
    size = view.shape[1]
    return (flat // size, flat % size)


@dataclass(frozen=True)
class OwnedWeight:
    """Unit `i` of a site owns position `offset + stride * i` along `dim` of a parameter."""

    module: nn.Module
    name: str
    """Dotted name of the weight in `model.named_parameters()`."""

    role: Role
    dim: int
    offset: int = 0
    """Position of unit 0; in stacked experts counted as in `read_rows`."""

    stride: int = 1
    """2 where gate and up rows alternate."""

    parameter: str = "weight"
    """The parameter's name in `module`."""

    @property
    def weight(self) -> nn.Parameter:
        """The parameter itself, looked up afresh."""
        return self.module.get_parameter(self.parameter)

    def index(self, units: Iterable[int]) -> list[int]:
        """Positions of units along `dim`."""
        return [self.offset + self.stride * unit for unit in units]

    def read(self, units: Iterable[int]) -> Float[Tensor, "units fan"]:
        """A copy of the slices that units own, one a row."""
        with fetched(self.module):
            return read_rows(self.weight, self.dim, self.index(units))


@dataclass(frozen=True)
class Writing:
    """The columns through which a site's units reach the residual stream.

    Without grouped heads unit i has one column, i. With them a value unit is shared by `groups`
    query heads, and has one column in each.
    """

    own: OwnedWeight
    groups: int = 1
    head_dim: int = 1

    def columns(self, unit: int) -> list[int]:
        """Inputs of the output projection that carry `unit`."""
        head, within = divmod(unit, self.head_dim)
        return [(head * self.groups + i) * self.head_dim + within for i in range(self.groups)]


@dataclass(frozen=True)
class BoundSite:
    """A site tied to the modules of one loaded model."""

    reader: nn.Module
    """The projection whose input or output holds the site's units, or the stack of experts."""

    width: int
    """Number of units, read off the weight and never computed from the config."""

    owned: tuple[OwnedWeight, ...]
    """Every weight slice that belongs to a unit."""

    writes: Writing | None
    """Where the units are written from; None for query and key units, which write nothing."""

    point: Point = "input"

    offset: int = 0
    """Of an output: where the units start in it, for a projection that makes several kinds."""

    expert: int | None = None

    block: nn.Module | None = None
    """Module whose input has the shape `[batch, pos, ...]`, where the reader sees tokens in one
    row; None where the reader itself sees batches."""

    def column_norms(self) -> Float[Tensor, " width"]:
        """L2 norm of what each unit writes into the residual stream, float64 on CPU (Eq. 5).

        `ffn`, `expert`: `‖W_down[:, i]‖₂`. `attention`: `‖W_O[:, i]‖₂`. `value`: the columns
        of W_O that the unit feeds, taken together (root of the sum of squares over the query
        heads that share it). `query`, `key`: 1, for they write no vector: they set where
        attention looks, and how far depends on the partner's activation, not on a weight. A
        score that multiplies by the norm is then the activation alone; ranks and shares are
        taken within a site, so no other constant would change them.
        """
        if self.writes is None:
            return torch.ones(self.width, dtype=torch.float64)
        columns = [i for unit in range(self.width) for i in self.writes.columns(unit)]
        rows = self.writes.own.read(columns).to("cpu", torch.float64)
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
        return norms.view(self.width, -1).pow(2).sum(1).sqrt()

    def written(self, units: Iterable[int]) -> Float[Tensor, "units fan"]:
        """What units write per unit of activation, in the weight's dtype; no rows for query, key.

        A value unit that several query heads share writes the sum of their columns where all
        of them attend alike; that sum is given.
        """
        units = list(units)
        if self.writes is None:
            return torch.empty(0, 0)
        columns = [i for unit in units for i in self.writes.columns(unit)]
        rows = self.writes.own.read(columns)
        return rows.view(len(units), self.writes.groups, -1).sum(1)

"""What is learnt about the stacked weights of routed experts: one expert's rows at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from precise_shield.align.parts import (
    DirectUnits,
    LoraRows,
    Part,
    parameter_of,
    start_of_a,
)
from precise_shield.align.slices import UnitSlices
from precise_shield.models.architecture.units import unit_major
from precise_shield.models.passes.experts import Routing


class ExpertPart(Part):
    """What is learnt about the same projection of several experts of a layer."""

    def __init__(self, slices: UnitSlices) -> None:
        super().__init__(slices)
        size = unit_major(slices.weight, slices.dim).shape[1]
        self.experts = sorted({position // size for position in slices.index})
        """Those with chosen neurons."""
        owner = [position // size for position in slices.index]
        self.starts = [owner.index(expert) for expert in self.experts] + [len(owner)]
        self.register_buffer("within", self.rows % size, persistent=False)

    within: Tensor

    def _each(self) -> Iterator[tuple[int, int, slice]]:
        """Number in `experts`, expert, and its part of the slices."""
        for number, expert in enumerate(self.experts):
            yield number, expert, slice(self.starts[number], self.starts[number + 1])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """An expert's part needs to know which rows are whose.

        Raises:
            TypeError: always; `routed` is what runs.
        """
        raise TypeError("call routed(x, y, routing)")

    def routed(
        self,
        x: Float[Tensor, "rows inputs"],
        y: Float[Tensor, "rows outputs"],
        routing: Routing,
    ) -> Float[Tensor, "rows outputs"]:
        """The projections' outputs with the update's own contributions added."""
        parts = [y[routing.rows(number)] for number in range(len(routing.bounds) - 1)]
        idle = True
        for number, expert, units in self._each():
            rows = routing.rows(expert)
            if rows.start < rows.stop:
                idle = False
                parts[expert] = self.add(number, units, x[rows], parts[expert])
        if idle:  # the gradient is 0, not missing: an optimiser tells them apart
            return y + sum((p.sum() * 0.0).to(y.dtype) for p in self.parameters())
        return torch.cat(parts)

    @abstractmethod
    def add(self, number: int, units: slice, x: Tensor, y: Tensor) -> Tensor:
        """One expert's output with its contribution added."""


class ExpertDirect(ExpertPart):
    """A free delta of the slices' own shape, `[units, fan]`, of all experts together."""

    def __init__(self, slices: UnitSlices, form: DirectUnits) -> None:
        super().__init__(slices)
        start = torch.zeros(len(slices.index), slices.fan)
        self.d = parameter_of(start, slices.weight, form.master)

    def add(self, number: int, units: slice, x: Tensor, y: Tensor) -> Tensor:
        d, within = self.d[units].to(x.dtype), self.within[units]
        if self.slices.side == "out":
            return y.index_add(-1, within, F.linear(x, d).to(y.dtype))
        return y + x.index_select(-1, within) @ d

    def update(self) -> Float[Tensor, "units fan"]:
        return self.d.detach().to(torch.promote_types(self.d.dtype, torch.float32))


class ExpertLora(ExpertPart):
    """`(B A)` on the chosen rows of each expert. `a` is `[experts, rank, in]`, one an expert."""

    def __init__(self, slices: UnitSlices, form: LoraRows, seed: int) -> None:
        super().__init__(slices)
        starts = [
            start_of_a(f"{seed}/{slices.name}/{expert}", form.rank, slices.fan)
            for expert in self.experts
        ]
        a = parameter_of(torch.stack(starts), slices.weight, form.master)
        self.a = a.requires_grad_(not form.freeze_a)
        b = torch.zeros(len(slices.index), form.rank)
        self.b = parameter_of(b, slices.weight, form.master)
        self.scaling = form.alpha / form.rank
        self.dropout = nn.Dropout(form.dropout)

    def add(self, number: int, units: slice, x: Tensor, y: Tensor) -> Tensor:
        low = F.linear(self.dropout(x), self.a[number].to(x.dtype))
        high = F.linear(low, self.b[units].to(x.dtype)) * self.scaling
        return y.index_add(-1, self.within[units], high.to(y.dtype))

    def update(self) -> Float[Tensor, "units fan"]:
        wide = torch.promote_types(self.a.dtype, torch.float32)
        a, b = self.a.detach().to(wide), self.b.detach().to(wide)
        rows = [b[units] @ a[number] for number, _, units in self._each()]
        return torch.cat(rows) * self.scaling


def expert_part(slices: UnitSlices, form: LoraRows | DirectUnits, seed: int) -> ExpertPart:
    """The part that learns one stacked weight in the given form."""
    if isinstance(form, LoraRows):
        return ExpertLora(slices, form, seed)
    return ExpertDirect(slices, form)

"""Many neuron sets at once: the same selection under many draws of the data.

A `Masks` answers to the same `& | -` as a `NeuronSet`, so that the algebra of named sets is
written once and holds for the set itself and for every bootstrap draw or shuffled label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from precise_shield.core.sites import NeuronSet, Site


def mean_where_known(values: Float[Tensor, " draws"]) -> float:
    """Mean over the draws that have a value; NaN when none has."""
    finite = values[values.isfinite()]
    return float(finite.mean()) if len(finite) else float("nan")


@dataclass(frozen=True)
class Masks:
    """Membership of every unit of every site, draw by draw.

    Shapes: `values[site]` is bool `[draws, width]`; all sites have the same number of draws.
    """

    values: Mapping[Site, Bool[Tensor, "draws width"]]

    def _with(self, other: Masks, join: Callable[[Tensor, Tensor], Tensor]) -> Masks:
        if self.values.keys() != other.values.keys():
            raise ValueError("masks of different sites cannot be joined")
        return Masks({site: join(mask, other.values[site]) for site, mask in self.values.items()})

    def __and__(self, other: Masks) -> Masks:
        return self._with(other, torch.logical_and)

    def __or__(self, other: Masks) -> Masks:
        return self._with(other, torch.logical_or)

    def __sub__(self, other: Masks) -> Masks:
        return self._with(other, lambda a, b: a & ~b)

    def sizes(self) -> Float[Tensor, " draws"]:
        """How many neurons each draw holds."""
        return torch.stack([mask.sum(1) for mask in self.values.values()]).sum(0).double()

    def share_of(self, other: Masks) -> Float[Tensor, " draws"]:
        """|A ∩ B| / |A|, draw by draw; NaN where A is empty."""
        return (self & other).sizes() / self.sizes()

    def jaccard(self, other: Masks) -> Float[Tensor, " draws"]:
        """|A ∩ B| / |A ∪ B|, draw by draw; NaN where both are empty."""
        return (self & other).sizes() / (self | other).sizes()

    def flat(self) -> Float[Tensor, "draws units"]:
        """All sites side by side, in order of site, as 0 and 1."""
        return torch.cat([self.values[site] for site in sorted(self.values)], 1).float()

    def draw(self, index: int) -> NeuronSet:
        """The neuron set of one draw."""
        return NeuronSet.of(
            {site: mask[index].nonzero().flatten().tolist() for site, mask in self.values.items()}
        )

    @classmethod
    def constant(cls, neurons: NeuronSet, widths: Mapping[Site, int]) -> Masks:
        """One set as a single draw, which broadcasts against any number of draws."""
        values = {site: torch.zeros(1, width, dtype=torch.bool) for site, width in widths.items()}
        for site, ids in neurons.units.items():
            values[site][0, list(ids)] = True
        return cls(values)

"""Changes to chosen neurons' activations, for the length of a block and in memory only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.errors import EmptySetError, LayoutMismatchError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.models.bind import BoundModel
from precise_shield.models.taps import tapped

Edit = Callable[[Site, Float[Tensor, "*at k"]], Float[Tensor, "*at k"]]
"""Takes the chosen units' activations at a site and returns what should stand in their place."""


def suppress(_: Site, acts: Float[Tensor, "*at k"]) -> Float[Tensor, "*at k"]:
    """Zero ablation: the same as zeroing the units' columns of the down-projection."""
    return torch.zeros_like(acts)


def scale(factor: float) -> Edit:
    """Multiply by `factor`: 0 suppresses, 1 changes nothing, above 1 amplifies."""
    return lambda _, acts: acts * factor


def replace(values: Mapping[Site, Float[Tensor, " k"]]) -> Edit:
    """Put fixed values in place, one a chosen unit, e.g. their mean over benign requests.

    Source: *Who Bridges Safety?* (arXiv 2608.09095), benign-mean replacement.
    """
    return lambda site, acts: values[site].to(acts).expand_as(acts)


@contextmanager
def intervening(bound: BoundModel, neurons: NeuronSet, edit: Edit) -> Iterator[None]:
    """Apply `edit` to `neurons`, at every token, in each forward pass inside the block.

    >>> with intervening(bound, harmful - benign, suppress):   # doctest: +SKIP
    ...     answers = generate(loaded, prompts)

    Raises:
        EmptySetError: there is no neuron to edit, so nothing would be measured.
        LayoutMismatchError: `neurons` names a site or unit that the model does not have.
    """
    if not neurons:
        raise EmptySetError("no neurons to edit: an empty set measures the model unchanged.")
    here = bound.only(neurons.units)
    index: dict[Site, Tensor] = {}
    for site, spot in here.sites.items():
        if neurons.units[site][-1] >= spot.width:
            raise LayoutMismatchError(
                f"{site} has {spot.width} units, asked for {neurons.units[site][-1]}."
                " The neurons belong to another model."
            )
        index[site] = torch.tensor(neurons.units[site])

    def fn(site: Site, acts: Tensor) -> Tensor:
        index[site] = chosen = index[site].to(acts.device)
        return acts.index_copy(-1, chosen, edit(site, acts.index_select(-1, chosen)))

    with tapped(here, fn):
        yield

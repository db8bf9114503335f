"""Changes to chosen neurons' activations, for the length of a block and in memory only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.errors import DeadTapError, EmptySetError, LayoutMismatchError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.intervene.scopes import Scope, blend, where
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.passes.taps import tapped

Edit = Callable[[Site, Float[Tensor, "*at k"]], Float[Tensor, "*at k"]]
"""Takes the chosen units' activations at a site and returns what should stand in their place."""


def suppress(_: Site, acts: Float[Tensor, "*at k"]) -> Float[Tensor, "*at k"]:
    """Zero ablation: the same as zeroing the units' columns of the down-projection."""
    return torch.zeros_like(acts)


def scale(factor: float) -> Edit:
    """Multiply by `factor`: 0 suppresses, 1 changes nothing, above 1 amplifies."""
    return lambda _, acts: acts * factor


def damp(factors: Mapping[Site, Float[Tensor, " k"]]) -> Edit:
    """Multiply each chosen unit by a factor of its own, e.g. by how much it drives harmful output.

    Source: SGM (arXiv 2512.15052), soft suppression at inference.
    """
    return lambda site, acts: acts * factors[site].to(acts)


def replace(values: Mapping[Site, Float[Tensor, " k"]]) -> Edit:
    """Put fixed values in place, one a chosen unit, e.g. their mean over benign requests.

    Source: *Who Bridges Safety?* (arXiv 2608.09095), benign-mean replacement.
    """
    return lambda site, acts: values[site].to(acts).expand_as(acts)


@contextmanager
def intervening(
    bound: BoundModel, neurons: NeuronSet, edit: Edit, scope: Scope = "all"
) -> Iterator[None]:
    """Apply `edit` to `neurons` at the positions of `scope`, in each pass inside the block.

    Blocks nest: the inner edit sees what the outer one left. The model is as before when the
    block ends, however it ends.

    >>> with intervening(bound, harmful - benign, suppress, "prompt"):   # doctest: +SKIP
    ...     answers = generate(loaded, prompts)

    Raises:
        EmptySetError: there is no neuron to edit, so nothing would be measured.
        LayoutMismatchError: `neurons` names a site or unit that the model does not have, or a
            pass does not say which of its positions are prompt and which are answer.
        DeadTapError: a site never fired, or no position of `scope` ever came by.
    """
    if not neurons:
        raise EmptySetError("no neurons to edit: an empty set measures the model unchanged.")
    here = bound.only(neurons.units)
    index = {site: _units(neurons, site, spot.width) for site, spot in here.sites.items()}
    silent = set(index)

    def fn(site: Site, acts: Tensor) -> Tensor | None:
        covered = where(scope, site, acts)
        if covered is False:
            return None
        if site in silent and (covered is True or bool(covered.any())):
            silent.discard(site)
        index[site] = chosen = index[site].to(acts.device)
        before = acts.index_select(-1, chosen)
        return acts.index_copy(-1, chosen, blend(edit(site, before), before, covered))

    with tapped(here, fn):
        yield
    if silent:
        raise DeadTapError(
            f"no {scope} position came by at {len(silent)} of {len(index)} sites, the first"
            f" {min(silent)}: the model was measured unchanged. Take another scope, or passes"
            " that have such positions."
        )


def _units(neurons: NeuronSet, site: Site, width: int) -> Tensor:
    if neurons.units[site][-1] >= width:
        raise LayoutMismatchError(
            f"{site} has {width} units, asked for {neurons.units[site][-1]}."
            " The neurons belong to another model."
        )
    return torch.tensor(neurons.units[site])

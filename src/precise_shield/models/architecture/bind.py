"""Turn a layout (names) into bound sites (modules), checking every claim it makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from precise_shield.core.errors import LayoutMismatchError
from precise_shield.core.sites import Site, Tower, UnitKind
from precise_shield.models.architecture.layouts import Layout, layouts_for
from precise_shield.models.architecture.resolving import Block
from precise_shield.models.architecture.resolving import resolve as resolve
from precise_shield.models.architecture.units import BoundSite as BoundSite
from precise_shield.models.architecture.units import OwnedWeight as OwnedWeight
from precise_shield.models.architecture.units import Role as Role


@dataclass(frozen=True)
class BoundModel:
    """One loaded model and the sites found in it: what taps, edits and tuners take."""

    model: PreTrainedModel
    sites: Mapping[Site, BoundSite]

    @property
    def backbone(self) -> nn.Module:
        """The model without its output head: same inputs, hidden states out."""
        return self.model.base_model

    @property
    def device(self) -> torch.device:
        """Where a batch goes before a forward pass."""
        return self.model.device

    def only(self, keep: Iterable[Site]) -> BoundModel:
        """The same model, seen at fewer sites.

        Raises:
            LayoutMismatchError: a site is not in this model.
        """
        keep = list(keep)
        strange = [site for site in keep if site not in self.sites]
        if strange:
            raise LayoutMismatchError(
                f"this model has no site {strange[0]}; it has {len(self.sites)} sites from"
                f" {min(self.sites)} to {max(self.sites)}. The neurons belong to another model,"
                " or to a tower or kind of unit that was not asked for."
            )
        return BoundModel(self.model, {site: self.sites[site] for site in keep})


def bind(
    model: PreTrainedModel,
    towers: Iterable[Tower] = ("text",),
    units: Iterable[UnitKind] = ("ffn",),
) -> BoundModel:
    """Find the units of the named kinds in the named towers of `model`.

    A block of routed experts has `expert` units and, where every token also passes a shared
    expert, `ffn` units; a dense block has `ffn` units.

    Raises:
        UnsupportedModelError: the architecture has no layout.
        LayoutMismatchError: the model has no such tower, no unit of a kind in any tower, a path
            does not resolve, or two weights disagree on width.
    """
    model_type, kinds = model.config.model_type, list(units)
    layouts = layouts_for(model_type)
    bound: dict[Site, BoundSite] = {}
    for tower in towers:
        if tower not in layouts:
            raise LayoutMismatchError(
                f"{model_type!r} has no {tower} tower in the table; it has {', '.join(layouts)}."
            )
        for block in _blocks(model, layouts[tower], tower):
            for kind in kinds:
                bound.update(block.sites(kind))
    for kind in kinds:
        if not any(site.kind == kind for site in bound):
            there = ", ".join(kinds_of(model, towers))
            raise LayoutMismatchError(
                f"{model_type!r} has no unit of kind {kind!r} here; it has {there}. Change"
                " identify.units (or the units you ask for)."
            )
    return BoundModel(model, bound)


def kinds_of(model: PreTrainedModel, towers: Iterable[Tower] = ("text",)) -> list[UnitKind]:
    """Kinds of units that the towers have, as the table writes them."""
    layouts = layouts_for(model.config.model_type)
    found: list[UnitKind] = []
    for tower in towers:
        for block in _blocks(model, layouts[tower], tower):
            found += [kind for kind in block.kinds() if kind not in found]
    return found


def _blocks(model: PreTrainedModel, layout: Layout, tower: Tower) -> Iterator[Block]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for index, module in enumerate(resolve(model, layout.layers, tower).children()):
        if layout.having is None or layout.having in dict(module.named_children()):
            yield Block(module, layout, tower, index, names)

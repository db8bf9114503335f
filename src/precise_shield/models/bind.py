"""Turn a layout (names) into bound sites (modules), checking every claim it makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from precise_shield.core.errors import LayoutMismatchError
from precise_shield.core.sites import Site, Tower
from precise_shield.models.layouts import Layout, layouts_for

Role = Literal["gate", "up", "down"]


@dataclass(frozen=True)
class OwnedWeight:
    """Unit `i` of a site owns index `offset + i` along `dim` of `module.weight`."""

    module: nn.Module
    name: str
    """Dotted name of the weight in `model.named_parameters()`."""

    role: Role
    dim: int
    offset: int = 0

    @property
    def weight(self) -> nn.Parameter:
        """The parameter itself, looked up afresh."""
        return self.module.get_parameter("weight")


@dataclass(frozen=True)
class BoundSite:
    """A site tied to the modules of one loaded model."""

    reader: nn.Module
    """The projection whose input, `[..., width]`, is the site's neurons."""

    width: int
    """Number of neurons, read off the weight and never computed from the config."""

    owned: tuple[OwnedWeight, ...]
    """Every weight slice that belongs to a unit: into it (gate, up) and out of it (down)."""

    def column_norms(self) -> Float[Tensor, " width"]:
        """L2 norm of what each unit writes, `‖W_down[:, i]‖₂`, float64 on CPU (Eq. 5)."""
        down = next(own for own in self.owned if own.role == "down")
        weight = down.weight.detach().to("cpu", torch.float64)
        norms: Tensor = torch.linalg.vector_norm(weight, dim=1 - down.dim)
        return norms


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
                f" {min(self.sites)} to {max(self.sites)}. The neurons belong to another model."
            )
        return BoundModel(self.model, {site: self.sites[site] for site in keep})


def bind(model: PreTrainedModel, towers: Iterable[Tower] = ("text",)) -> BoundModel:
    """Find the feed-forward neurons of the named towers of `model`.

    Raises:
        UnsupportedModelError: the architecture has no layout.
        LayoutMismatchError: the model has no such tower, a path does not resolve, or two
            weights disagree on width.
    """
    model_type = model.config.model_type
    layouts = layouts_for(model_type)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    bound: dict[Site, BoundSite] = {}
    for tower in towers:
        if tower not in layouts:
            raise LayoutMismatchError(
                f"{model_type!r} has no {tower} tower in the table; it has {', '.join(layouts)}."
            )
        layout = layouts[tower]
        blocks = resolve(model, layout.layers, tower)
        for index, block in enumerate(blocks.children()):
            if layout.having is not None and layout.having not in dict(block.named_children()):
                continue
            bound[Site(tower, index)] = _bind_block(block, layout, tower, names)
    return BoundModel(model, bound)


def _bind_block(
    block: nn.Module, layout: Layout, tower: Tower, names: Mapping[int, str]
) -> BoundSite:
    down = resolve(block, layout.down, tower)
    width = _size(down, _in_dim(down))
    owned = [_own(down, "down", _in_dim(down), 0, names)]
    ups: list[tuple[Role, str]] = [("up", layout.up)]
    if layout.gate is not None:
        ups.insert(0, ("gate", layout.gate))
    for role, path in ups:
        module = resolve(block, path, tower)
        made = _size(module, _out_dim(module))
        halves: list[Role] = ["gate", "up"] if layout.fused else [role]
        if made != len(halves) * width:
            raise LayoutMismatchError(
                f"{tower} tower: {path} makes {made} values but {layout.down} reads {width};"
                f" expected {len(halves)} x {width}. Fix the row in precise_shield.models.layouts."
            )
        for part, half in enumerate(halves):
            owned.append(_own(module, half, _out_dim(module), part * width, names))
    return BoundSite(reader=down, width=width, owned=tuple(owned))


def _own(
    module: nn.Module, role: Role, dim: int, offset: int, names: Mapping[int, str]
) -> OwnedWeight:
    return OwnedWeight(module, names[id(module.get_parameter("weight"))], role, dim, offset)


def resolve(root: nn.Module, path: str, tower: Tower) -> nn.Module:
    """Follow a dotted path, or say which row of the table is wrong.

    Raises:
        LayoutMismatchError: some part of the path does not exist.
    """
    try:
        return root.get_submodule(path)
    except AttributeError as error:
        raise LayoutMismatchError(
            f"{tower} tower: {type(root).__name__} has no {path!r} ({error})."
            " Fix the row in precise_shield.models.layouts."
        ) from error


def _size(module: nn.Module, dim: int) -> int:
    return int(module.get_parameter("weight").shape[dim])


def _out_dim(module: nn.Module) -> int:
    return 1 if isinstance(module, Conv1D) else 0


def _in_dim(module: nn.Module) -> int:
    return 1 - _out_dim(module)

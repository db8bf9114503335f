"""Which slices of which weights the chosen neurons own, and how to read and write exactly those."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from precise_shield.core.errors import (
    ConfigError,
    EmptySetError,
    LayoutMismatchError,
    UnsupportedModelError,
)
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.models.architecture.bind import BoundModel, OwnedWeight, Role
from precise_shield.models.architecture.units import WRITING, read_rows, unit_major, write_rows
from precise_shield.models.holding.held import is_offloaded, is_sharded, whole
from precise_shield.models.holding.packed import bits_of, seen

Side = Literal["out", "in"]
"""`out`: a unit is one output of the projection (gate, up, query). `in`: one input of it (down)."""

WHOLE = -1
"""In the place of a dimension that counts units: all of a tensor, seen by its rows."""

TRAINABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CHUNK = 2**24
"""Entries hashed at a time, so that no weight is ever copied whole."""


@dataclass(frozen=True)
class UnitSlices:
    """The slices of one weight that belong to chosen neurons.

    A weight that several modules share appears once, with all of them.
    """

    name: str
    """Dotted name of the weight in `model.named_parameters()`."""

    modules: tuple[nn.Module, ...]
    """Every projection that multiplies by this weight."""

    side: Side

    dim: int
    """The weight's dimension that counts units: 0 or 1, transposed in a `Conv1D`; 1 or 2 of
    stacked experts; 0 of a bias. `WHOLE` where all of a tensor moves, whatever its shape."""

    index: tuple[int, ...]
    """Strictly increasing positions along `dim`, offsets of fused weights included. In stacked
    experts they go on from one expert to the next: position j of expert e is `e * size + j`."""

    parameter: str = "weight"
    """The parameter's name in each of `modules`."""

    @property
    def weight(self) -> nn.Parameter:
        """The parameter itself, looked up afresh."""
        return self.modules[0].get_parameter(self.parameter)

    @property
    def stacked(self) -> bool:
        """It holds the weights of all routed experts of a layer."""
        return self.weight.dim() == 3

    @property
    def fan(self) -> int:
        """Length of one slice: inputs of a row, outputs of a column, 1 of a bias."""
        return int(lines_of(seen(self.weight), self.dim).shape[-1])

    def read(self) -> Float[Tensor, "units fan"]:
        """A copy of the slices, one a row whatever the weight's orientation."""
        return read_slices(self.weight, self.dim, self.index)

    def write(self, values: Float[Tensor, "units fan"]) -> None:
        """Put values of the weight's dtype in place of the slices."""
        write_slices(self.weight, self.dim, self.index, values)


def lines_of(weight: Tensor, dim: int) -> Tensor:
    """A view of a weight whose last dimension is one slice long: `[*experts, units, fan]`."""
    if dim == WHOLE:
        return weight.reshape(len(weight) if weight.dim() else 1, -1)
    return unit_major(weight, dim)


def read_slices(weight: Tensor, dim: int, index: tuple[int, ...]) -> Float[Tensor, "units fan"]:
    """Copy slices of a weight, one a row of the result."""
    if dim == WHOLE:
        return lines_of(whole(weight).detach(), dim).clone()
    return read_rows(weight, dim, index).contiguous()


def write_slices(
    weight: Tensor, dim: int, index: tuple[int, ...], values: Float[Tensor, "units fan"]
) -> None:
    """Put `values`, shaped as `read_slices` gives them, back in place."""
    if values.dtype != seen(weight).dtype:
        raise LayoutMismatchError(
            f"values of {values.dtype} do not fit a weight of {seen(weight).dtype}."
            " Load the model in the dtype the values were made in."
        )
    if dim == WHOLE:
        with torch.no_grad():
            weight.copy_(values.view(weight.shape))
        return
    write_rows(weight, dim, index, values)


def whole_tensors(bound: BoundModel) -> tuple[UnitSlices, ...]:
    """Every parameter of a model as one entry, in model order; one that modules share once.

    Raises:
        UnsupportedModelError: the model is quantised, offloaded, or shared out among processes.
    """
    model = bound.model
    held = "quantised" if bits_of(model) else "offloaded" if is_offloaded(model) else ""
    if held or is_sharded(model):
        raise UnsupportedModelError(
            f"all parameters cannot be trained where the model is {held or 'sharded'}: each has to"
            " lie whole, in 16 bits or more, on a device. Set align.full: searched, or load the"
            " model otherwise (model.quantise, model.device_map, model.shard)."
        )
    holders = holders_of(model)
    found = []
    for name, parameter in model.named_parameters():
        if parameter.dtype not in TRAINABLE:
            raise UnsupportedModelError(
                f"{name} is stored as {parameter.dtype}; exact deltas need 16 bits or more."
                " Load the model in bfloat16 or float32."
            )
        sharing = holders[id(parameter)]
        rows = tuple(range(len(lines_of(parameter, WHOLE))))
        modules = tuple(module for module, _ in sharing)
        found.append(UnitSlices(name, modules, "out", WHOLE, rows, sharing[0][1]))
    return tuple(found)


def slices_of(
    bound: BoundModel, neurons: NeuronSet, roles: tuple[Role, ...]
) -> tuple[UnitSlices, ...]:
    """The slices of the named roles that `neurons` own, one entry a weight, in model order.

    A fused gate-and-up weight is one entry that holds both halves.

    Raises:
        EmptySetError: there is no neuron, or no weight of these roles.
        ConfigError: some of the neurons have a weight of these roles and others have none.
        LayoutMismatchError: a neuron is not in this model, or a weight is tied to something
            that is no projection, so that moving it would move more than neurons.
        UnsupportedModelError: a weight has fewer than 16 bits and was not loaded as a
            quantised base, or weights are offloaded.
    """
    if not neurons:
        raise EmptySetError(
            "there are no neurons to train. Choose more (a higher p), or look at what"
            " identification found."
        )
    if is_offloaded(bound.model):
        raise UnsupportedModelError(
            "model.device_map leaves weights on disk or in main memory only to be fetched, and what"
            " is trained, changed or sealed must lie on a device; raise model.max_memory, or use"
            " several GPUs (model.shard: fsdp)."
        )
    rows: dict[str, set[int]] = {}
    owners: dict[str, OwnedWeight] = {}
    without: list[Site] = []
    for site, spot in bound.only(neurons.units).sites.items():
        ids = neurons.units[site]
        if ids[-1] >= spot.width:
            raise LayoutMismatchError(
                f"neuron {ids[-1]} of {site} does not exist: the site has {spot.width} units."
                " The neurons belong to another model."
            )
        mine = [own for own in spot.owned if own.role in roles]
        if not mine:
            without.append(site)
        for own in mine:
            first = owners.setdefault(own.name, own)
            if _side(first) != _side(own):
                raise LayoutMismatchError(f"{own.name} is both read and written by units.")
            rows.setdefault(own.name, set()).update(own.index(ids))
    if not rows:
        raise EmptySetError(
            f"none of the chosen neurons owns a weight of the roles {', '.join(roles)};"
            " blocks without a gate have up and down only."
        )
    if without:
        raise ConfigError(
            f"the units of {without[0]} and {len(without) - 1} other sites own no weight of the"
            f" roles {', '.join(roles)} and would stay as they are. Train them in the direct form"
            " (align.form: direct), or choose a set without them."
        )
    holders = holders_of(bound.model)
    order = [name for name, _ in bound.model.named_parameters() if name in rows]
    return tuple(_slices(owners[name], rows[name], holders) for name in order)


def _slices(
    own: OwnedWeight, rows: set[int], holders: Mapping[int, list[tuple[nn.Module, str]]]
) -> UnitSlices:
    if seen(own.weight).dtype not in TRAINABLE:
        raise UnsupportedModelError(
            f"{own.name} is stored as {own.weight.dtype}; exact deltas need 16 bits or more."
            " Load the model in bfloat16 or float32."
        )
    sharing = holders[id(own.weight)]
    for module, name in sharing:
        linear = isinstance(module, nn.Linear | Conv1D) or own.weight.dim() == 3
        if name != own.parameter or not linear or type(module) is not type(own.module):
            raise LayoutMismatchError(
                f"{own.name} is tied to {type(module).__name__}.{name}, so training its neurons"
                " would move something else. Untie the weights first."
            )
    modules = tuple(module for module, _ in sharing)
    index = tuple(sorted(rows))
    return UnitSlices(own.name, modules, _side(own), own.dim, index, own.parameter)


def _side(own: OwnedWeight) -> Side:
    return "in" if own.role in WRITING else "out"


def holders_of(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Every place of each parameter, by its `id`: the module that holds it, and its name there."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            found.setdefault(id(parameter), []).append((module, name))
    return found


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits: NaN equals itself, and 0.0 is not -0.0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(_bits(a), _bits(b.to(a.device)))


def changed(a: Tensor, b: Tensor) -> int:
    """How many entries of two tensors of one shape and dtype differ in their bits."""
    size = a.element_size()
    kept = torch.eq(_bits(a), _bits(b.to(a.device))).view(-1, size).all(1)
    return a.numel() - int(kept.sum())


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def fingerprint(tensor: Tensor, dim: int = 0, masked: tuple[int, ...] = ()) -> str:
    """SHA-256 of a tensor's shape, dtype and bits, with the slices `masked` along `dim` left out.

    Streams: never more than a chunk of rows is copied, whatever device the tensor is on. With
    `dim` `WHOLE` all of it is left out: shape and dtype alone are hashed.
    """
    if dim == WHOLE:
        return hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype} whole".encode()).hexdigest()
    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype} {dim} {masked}".encode())
    for part in _row_chunks(whole(tensor).detach(), dim, masked):
        digest.update(_bits(part.cpu()).numpy().data)
    return digest.hexdigest()


def _row_chunks(tensor: Tensor, dim: int, masked: tuple[int, ...]) -> Iterator[Tensor]:
    if not masked:
        yield from torch.split(tensor.reshape(-1), _CHUNK)
        return
    if tensor.dim() == 3:
        yield from _expert_chunks(tensor, dim, masked)
        return
    hole = torch.zeros(tensor.shape[dim], dtype=torch.bool)
    hole[list(masked)] = True
    hole = hole.to(tensor.device)
    step = max(1, _CHUNK // max(1, int(tensor[:1].numel())))
    for start in range(0, tensor.shape[0], step):
        part = tensor[start : start + step]
        yield part[~hole[start : start + step]] if dim == 0 else part[:, ~hole]


def _expert_chunks(tensor: Tensor, dim: int, masked: tuple[int, ...]) -> Iterator[Tensor]:
    """One expert at a time, without its masked rows."""
    view = unit_major(tensor, dim)
    hole = torch.zeros(view.shape[:2], dtype=torch.bool)
    hole.view(-1)[list(masked)] = True
    for expert, gone in zip(view, hole.to(tensor.device), strict=True):
        yield expert[~gone]

"""The forms of a delta, and what is learnt about one weight."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from precise_shield.align.slices import UnitSlices, slices_of, whole_tensors
from precise_shield.core.errors import ConfigError
from precise_shield.core.sites import NeuronSet
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.architecture.units import Role
from precise_shield.models.holding.packed import seen

Master = Literal["float32", "weight"]
"""Dtype in which parameters are kept: float32, or the weight's own (smaller, coarser steps)."""


_ATTENTION: tuple[Role, ...] = (
    *("query", "key", "value"),
    *("query_bias", "key_bias", "value_bias"),
    "out",
)


@dataclass(frozen=True)
class LoraRows:
    """Row-masked LoRA on gate and up: W' = W0 + (M ⊙ B) A, only the chosen rows of B existing.

    The same on W_Q, W_K and W_V for units that are their rows. Units that own a column alone (of
    W_O) have no row, and need the direct form.

    Source: Precise Shield, Eq. 9-11; defaults of its sibling *One Anchor for All*.
    """

    rank: int = 8
    alpha: float = 16.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.05
    """Share of inputs dropped on the way into A, in training only."""
    freeze_a: bool = False
    """Keep A at its random start and train the rows of B alone."""
    master: Master = "float32"

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1 or not self.alpha > 0:
            raise ConfigError(
                f"rank {self.rank}, alpha {self.alpha}, dropout {self.dropout}: rank must be at"
                " least 1, alpha above 0 and dropout in [0, 1)."
            )

    @property
    def roles(self) -> tuple[Role, ...]:
        """Projections that have rows to train: those a unit is made by, none that it writes to."""
        return ("gate", "up", "query", "key", "value")


@dataclass(frozen=True)
class DirectUnits:
    """An exact-size delta on the units' own rows and columns.

    Source: SS-Neurons, θ ← θ − η (M ⊙ ∇L), without the mask.
    """

    parts: tuple[Role, ...] = ("gate", "up", "down")
    """Of a feed-forward neuron. An attention unit's one part, a row or a column, always trains."""

    master: Master = "float32"

    def __post_init__(self) -> None:
        if not self.parts or len(set(self.parts)) != len(self.parts):
            raise ConfigError(f"parts {self.parts}: name gate, up and down at most once each.")

    @property
    def roles(self) -> tuple[Role, ...]:
        """Projections whose slices train: the chosen parts, and whatever an attention unit owns."""
        return (*self.parts, *_ATTENTION)


@dataclass(frozen=True)
class AllParameters:
    """A delta of every parameter of the model: full fine-tuning, whatever the neurons.

    Embeddings, norms, biases, the output head and other towers included; a tied parameter once.
    """

    master: Master = "float32"

    @property
    def roles(self) -> tuple[Role, ...]:
        """None: it is no matter of what a weight does for a unit."""
        return ()


Form = LoraRows | DirectUnits | AllParameters


FORM_NAMES: dict[type[Form], str] = {
    LoraRows: "lora_rows",
    DirectUnits: "direct_units",
    AllParameters: "all_parameters",
}


def form_name(form: Form) -> str:
    """What receipts and files call the form."""
    return FORM_NAMES[type(form)]


def form_of(name: str, settings: Mapping[str, Any]) -> Form:
    """The form of a name and its settings, as JSON holds them.

    Raises:
        KeyError: there is none of this name.
    """
    kinds: dict[str, Any] = {name: kind for kind, name in FORM_NAMES.items()}
    lists = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
    made: Form = kinds[name](**lists)
    return made


def form_slices(bound: BoundModel, neurons: NeuronSet, form: Form) -> tuple[UnitSlices, ...]:
    """Every slice that training `neurons` in this form may move, one entry a weight.

    Raises:
        EmptySetError, ConfigError, LayoutMismatchError, UnsupportedModelError: as `slices_of`.
    """
    if isinstance(form, AllParameters):
        return whole_tensors(bound)
    return slices_of(bound, neurons, form.roles)


def parameter_of(value: Tensor, like: Tensor, master: Master) -> nn.Parameter:
    """`value` as what learns in `like`'s place: on its device, in its type or float32 at least."""
    like = seen(like)
    dtype = like.dtype if master == "weight" else torch.promote_types(like.dtype, torch.float32)
    return nn.Parameter(value.to(like.device, dtype))


def added(y: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """A projection's output with `values` added at `rows`: in place, for no one else holds it.

    A view (a `Conv1D` gives one) is copied, since a backward pass through it would copy anyway.
    """
    values = values.to(y.dtype)
    held = y._is_view() or (y.is_leaf and y.requires_grad)
    return y.index_add(-1, rows, values) if held else y.index_add_(-1, rows, values)


class Part(nn.Module, ABC):
    """What is learnt about one weight."""

    rows: Tensor

    def __init__(self, slices: UnitSlices) -> None:
        super().__init__()
        self.slices = slices
        rows = torch.tensor(slices.index, device=slices.weight.device)
        self.register_buffer("rows", rows, persistent=False)

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float[Tensor, "*batch outputs"]:
        """The projection's output with the update's own contribution added."""

    @abstractmethod
    def update(self) -> Float[Tensor, "units fan"]:
        """What is added to the slices, one a row, in at least float32."""


def start_of_a(key: str, rank: int, fan: int) -> Float[Tensor, "rank fan"]:
    """Kaiming-uniform, as PEFT starts A; the same for the same key on every machine."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    a = torch.empty(rank, fan)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
    return a


class RowLora(Part):
    """`(B A)` on the chosen rows of one projection. `a` is `[rank, in]`, `b` `[units, rank]`."""

    def __init__(self, slices: UnitSlices, form: LoraRows, seed: int) -> None:
        super().__init__(slices)
        a = start_of_a(f"{seed}/{slices.name}", form.rank, slices.fan)
        self.a = parameter_of(a, slices.weight, form.master).requires_grad_(not form.freeze_a)
        b = torch.zeros(len(slices.index), form.rank)
        self.b = parameter_of(b, slices.weight, form.master)
        self.scaling = form.alpha / form.rank
        self.dropout = nn.Dropout(form.dropout)

    def forward(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float[Tensor, "*batch outputs"]:
        low = F.linear(self.dropout(x), self.a.to(x.dtype))  # [*batch, rank]
        high = F.linear(low, self.b.to(x.dtype)) * self.scaling  # [*batch, units]
        return added(y, self.rows, high)

    def update(self) -> Float[Tensor, "units fan"]:
        wide = torch.promote_types(self.a.dtype, torch.float32)
        return (self.b.detach().to(wide) @ self.a.detach().to(wide)) * self.scaling


class DirectSlices(Part):
    """A free delta of the slices' own shape, `[units, fan]`."""

    def __init__(self, slices: UnitSlices, form: DirectUnits) -> None:
        super().__init__(slices)
        start = torch.zeros(len(slices.index), slices.fan)
        self.d = parameter_of(start, slices.weight, form.master)

    def forward(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float[Tensor, "*batch outputs"]:
        d = self.d.to(x.dtype)
        if self.slices.weight.dim() == 1:
            return y.index_add(-1, self.rows, d[:, 0].to(y.dtype).expand(*y.shape[:-1], -1))
        if self.slices.side == "out":
            return added(y, self.rows, F.linear(x, d))
        return y + x.index_select(-1, self.rows) @ d

    def update(self) -> Float[Tensor, "units fan"]:
        return self.d.detach().to(torch.promote_types(self.d.dtype, torch.float32))


def part_of(slices: UnitSlices, form: LoraRows | DirectUnits, seed: int) -> Part:
    """The part that learns one weight in the given form."""
    return RowLora(slices, form, seed) if isinstance(form, LoraRows) else DirectSlices(slices, form)

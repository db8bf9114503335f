"""The part that learns: exactly as large as the chosen neurons, so that no mask can leak."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from precise_shield.align.slices import UnitSlices, fingerprint, slices_of
from precise_shield.align.sparse import Change, SparseDelta
from precise_shield.core.errors import ConfigError, NumericError, ReceiptError
from precise_shield.core.sites import NeuronSet
from precise_shield.models.bind import BoundModel, Role
from precise_shield.models.taps import SidePath, side_paths

Master = Literal["float32", "weight"]
"""Dtype in which parameters are kept: float32, or the weight's own (smaller, coarser steps)."""


@dataclass(frozen=True)
class LoraRows:
    """Row-masked LoRA on gate and up: W' = W0 + (M ⊙ B) A, only the chosen rows of B existing.

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
        return ("gate", "up")


@dataclass(frozen=True)
class DirectUnits:
    """An exact-size delta on the units' own rows of gate and up and columns of down.

    Source: SS-Neurons, θ ← θ − η (M ⊙ ∇L), without the mask.
    """

    parts: tuple[Role, ...] = ("gate", "up", "down")
    master: Master = "float32"

    def __post_init__(self) -> None:
        if not self.parts or len(set(self.parts)) != len(self.parts):
            raise ConfigError(f"parts {self.parts}: name gate, up and down at most once each.")

    @property
    def roles(self) -> tuple[Role, ...]:
        return self.parts


Form = LoraRows | DirectUnits


def form_name(form: Form) -> str:
    """What receipts and files call the form: `lora_rows` or `direct_units`."""
    return "lora_rows" if isinstance(form, LoraRows) else "direct_units"


def _parameter(value: Tensor, like: Tensor, master: Master) -> nn.Parameter:
    dtype = like.dtype if master == "weight" else torch.promote_types(like.dtype, torch.float32)
    return nn.Parameter(value.to(like.device, dtype))


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


class RowLora(Part):
    """`(B A)` on the chosen rows of one projection. `a` is `[rank, in]`, `b` `[units, rank]`."""

    def __init__(self, slices: UnitSlices, form: LoraRows, seed: int) -> None:
        super().__init__(slices)
        key = hashlib.sha256(f"{seed}/{slices.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
        a = torch.empty(form.rank, slices.fan)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        self.a = _parameter(a, slices.weight, form.master).requires_grad_(not form.freeze_a)
        b = torch.zeros(len(slices.index), form.rank)
        self.b = _parameter(b, slices.weight, form.master)
        self.scaling = form.alpha / form.rank
        self.dropout = nn.Dropout(form.dropout)

    def forward(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float[Tensor, "*batch outputs"]:
        low = F.linear(self.dropout(x), self.a.to(x.dtype))  # [*batch, rank]
        high = F.linear(low, self.b.to(x.dtype)) * self.scaling  # [*batch, units]
        return y.index_add(-1, self.rows, high.to(y.dtype))

    def update(self) -> Float[Tensor, "units fan"]:
        wide = torch.promote_types(self.a.dtype, torch.float32)
        return (self.b.detach().to(wide) @ self.a.detach().to(wide)) * self.scaling


class DirectSlices(Part):
    """A free delta of the slices' own shape, `[units, fan]`."""

    def __init__(self, slices: UnitSlices, form: DirectUnits) -> None:
        super().__init__(slices)
        start = torch.zeros(len(slices.index), slices.fan)
        self.d = _parameter(start, slices.weight, form.master)

    def forward(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float[Tensor, "*batch outputs"]:
        d = self.d.to(x.dtype)
        if self.slices.side == "out":
            return y.index_add(-1, self.rows, F.linear(x, d).to(y.dtype))
        return y + x.index_select(-1, self.rows) @ d

    def update(self) -> Float[Tensor, "units fan"]:
        return self.d.detach().to(torch.promote_types(self.d.dtype, torch.float32))


@dataclass(frozen=True)
class DeltaCounts:
    """How much is trained. In the direct form both figures are the whole delta."""

    trained_b_rows: int
    """Entries of the rows of B alone."""
    trained_with_a: int
    """All that the optimiser sees: A too, unless it is frozen."""


class Deltas(nn.Module):
    """Everything that learns, and nothing else: what `tuning` yields.

    Starts in evaluation mode: `.train()` and `.eval()` switch LoRA's dropout, and the model's
    own mode stays as the caller set it.
    """

    def __init__(self, bound: BoundModel, neurons: NeuronSet, form: Form, seed: int) -> None:
        super().__init__()
        self.bound, self.neurons, self.form, self.seed = bound, neurons, form, seed
        self.parts = nn.ModuleList(
            RowLora(slices, form, seed)
            if isinstance(form, LoraRows)
            else DirectSlices(slices, form)
            for slices in slices_of(bound, neurons, form.roles)
        )
        self._on = True
        self._delta: SparseDelta | None = None
        self._start = [fingerprint(part.slices.read()) for part in self._all()]
        self.eval()

    def counts(self) -> DeltaCounts:
        """Trained entries, counted on the parameters themselves."""
        seen = sum(p.numel() for p in self.parameters() if p.requires_grad)
        if isinstance(self.form, DirectUnits):
            return DeltaCounts(seen, seen)
        rows = sum(part.b.numel() for part in self._all() if isinstance(part, RowLora))
        return DeltaCounts(rows, seen)

    def identity(self) -> str:
        """SHA-256 of what is being trained: which slices, their start values, form and seed."""
        where = [(part.slices.name, part.slices.index) for part in self._all()]
        text = f"{where} {self._start} {form_name(self.form)} {asdict(self.form)} {self.seed}"
        return hashlib.sha256(text.encode()).hexdigest()

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base model, for the length of the block: no second copy is needed."""
        was, self._on = self._on, False
        try:
            yield
        finally:
            self._on = was

    def sparse(self) -> SparseDelta:
        """Old and new values of every slice, once the block of `tuning` has ended well.

        Raises:
            ReceiptError: the block is still open, or failed.
        """
        if self._delta is None:
            raise ReceiptError(
                "nothing has been merged: ask for the delta after the block of `tuning` ended."
            )
        return self._delta

    def paths(self) -> dict[nn.Module, SidePath]:
        """For each projection, what it has to add to its output."""

        def path_for(part: Part) -> SidePath:
            def path(x: Tensor, y: Tensor) -> Tensor:
                added: Tensor = part(x, y) if self._on else y
                return added

            return path

        return {module: path_for(part) for part in self._all() for module in part.slices.modules}

    def merge(self) -> SparseDelta:
        """Write `W + delta` into the model: all of it, or nothing.

        Raises:
            NumericError: the delta, or the weight it makes, is NaN or infinite.
            ReceiptError: a chosen slice was changed by something else meanwhile.
        """
        changes = [self._change(*pair) for pair in zip(self._all(), self._start, strict=True)]
        delta = SparseDelta(
            changes=tuple(changes),
            neurons=self.neurons,
            form=form_name(self.form),
            rank=self.form.rank if isinstance(self.form, LoraRows) else 0,
            recipe={**asdict(self.form), "seed": self.seed},
        )
        for part, change in zip(self._all(), changes, strict=True):
            part.slices.write(change.new)
        self._delta = delta
        return delta

    def _change(self, part: Part, start: str) -> Change:
        slices, old = part.slices, part.slices.read()
        if fingerprint(old) != start:
            raise ReceiptError(
                f"{slices.name} changed while its neurons were being trained beside it, so what"
                " was learnt does not fit it. Give the optimiser deltas.parameters() only."
            )
        update = part.update()
        new = (old.to(update.dtype) + update).to(old.dtype)
        if not torch.isfinite(new).all():
            raise NumericError(
                f"training left NaN or infinite weights in {slices.name}; nothing was merged."
                " Lower the learning rate, or load the model in bfloat16 or float32."
            )
        base = fingerprint(slices.weight)
        return Change(slices.name, slices.dim, slices.index, old.cpu(), new.cpu(), base)

    def _all(self) -> list[Part]:
        return [part for part in self.parts if isinstance(part, Part)]


@contextmanager
def tuning(bound: BoundModel, neurons: NeuronSet, form: Form, seed: int) -> Iterator[Deltas]:
    """Freeze the model, and yield the part that may learn, added beside it.

    A transaction. Leave the block normally and the slices become `W + delta`, summed in
    float32 and rounded once; leave it by an exception and no weight was touched.
    `requires_grad` flags are put back either way.

    >>> with tuning(bind(model), neurons, LoraRows(), seed=0) as deltas:   # doctest: +SKIP
    ...     fit(deltas, batches, FitSpec())

    Raises:
        EmptySetError: there is nothing to train.
        LayoutMismatchError: the neurons are not this model's.
        DeadTapError: the block ended well but some trained projection never ran.
        NumericError: what was learnt is not finite.
    """
    deltas = Deltas(bound, neurons, form, seed)
    flags = [(parameter, parameter.requires_grad) for parameter in bound.model.parameters()]
    try:
        bound.model.requires_grad_(False)
        with side_paths(deltas.paths()):
            yield deltas
        deltas.merge()
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)

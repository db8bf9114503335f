"""The part that learns: exactly as large as the chosen neurons, so that no mask can leak."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from precise_shield.align.expert_parts import ExpertLora, ExpertPart, expert_part
from precise_shield.align.parts import AllParameters as AllParameters
from precise_shield.align.parts import DirectUnits as DirectUnits
from precise_shield.align.parts import Form as Form
from precise_shield.align.parts import LoraRows as LoraRows
from precise_shield.align.parts import Part, form_slices, part_of
from precise_shield.align.parts import RowLora as RowLora
from precise_shield.align.parts import form_name as form_name
from precise_shield.align.slices import UnitSlices, fingerprint
from precise_shield.align.sparse import Change, SparseDelta
from precise_shield.align.whole import Standing, WholeTensor
from precise_shield.core.errors import NumericError, ReceiptError
from precise_shield.core.sites import NeuronSet
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.passes.experts import Ear, Routing
from precise_shield.models.passes.taps import SidePath, expert_paths, side_paths


@dataclass(frozen=True)
class DeltaCounts:
    """How much is trained. Without a LoRA both figures are the whole delta."""

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
            _part(slices, form, seed) for slices in form_slices(bound, neurons, form)
        )
        every = [part for part in self.parts if isinstance(part, WholeTensor)]
        self.standing = Standing(bound, every) if every else None
        self._on = True
        self._delta: SparseDelta | None = None
        self._start = [fingerprint(part.slices.read()) for part in self._all()]
        self.eval()

    def counts(self) -> DeltaCounts:
        """Trained entries, counted on the parameters themselves."""
        seen = sum(p.numel() for p in self.parameters() if p.requires_grad)
        if not isinstance(self.form, LoraRows):
            return DeltaCounts(seen, seen)
        rows = sum(p.b.numel() for p in self._all() if isinstance(p, RowLora | ExpertLora))
        return DeltaCounts(rows, seen)

    def identity(self) -> str:
        """SHA-256 of what is being trained: which slices, their start values, form and seed."""
        where = [(part.slices.name, part.slices.index) for part in self._all()]
        text = f"{where} {self._start} {form_name(self.form)} {asdict(self.form)} {self.seed}"
        return hashlib.sha256(text.encode()).hexdigest()

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base model, for the length of the block: no second copy is needed."""
        was = self._on
        self._switch(False)
        try:
            yield
        finally:
            self._switch(was)

    def _switch(self, on: bool) -> None:
        self._on = on
        if self.standing is not None:
            self.standing.on = on
            self.standing.follow()  # a backward pass may run blocks again before the next pass

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

    def trained_modules(self) -> set[nn.Module]:
        """Every module of the model that something is learnt about."""
        return {module for part in self._all() for module in part.slices.modules}

    def paths(self) -> dict[nn.Module, SidePath]:
        """For each projection, what it has to add to its output."""
        found: dict[nn.Module, list[Part]] = {}
        for part in self._all():
            if not isinstance(part, ExpertPart | WholeTensor):
                for module in part.slices.modules:
                    found.setdefault(module, []).append(part)

        def path_for(parts: list[Part]) -> SidePath:
            def path(x: Tensor, y: Tensor) -> Tensor:
                for part in parts if self._on else []:
                    y = part(x, y)
                return y

            return path

        return {module: path_for(parts) for module, parts in found.items()}

    def ears(self) -> dict[nn.Module, Ear]:
        """For each stack of experts, what its chosen experts have to add inside it."""
        found: dict[nn.Module, dict[str, ExpertPart]] = {}
        for part in self._all():
            if isinstance(part, ExpertPart):
                for module in part.slices.modules:
                    found.setdefault(module, {})[part.slices.side] = part

        def adding(part: ExpertPart | None) -> Callable[[Tensor, Tensor, Routing], Tensor] | None:
            if part is None:
                return None
            return lambda x, y, routing: part.routed(x, y, routing) if self._on else y

        return {
            module: Ear(made=adding(sides.get("out")), wrote=adding(sides.get("in")))
            for module, sides in found.items()
        }

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


def _part(slices: UnitSlices, form: Form, seed: int) -> Part:
    if isinstance(form, AllParameters):
        return WholeTensor(slices, form)
    return expert_part(slices, form, seed) if slices.stacked else part_of(slices, form, seed)


@contextmanager
def tuning(bound: BoundModel, neurons: NeuronSet, form: Form, seed: int) -> Iterator[Deltas]:
    """Freeze the model, and yield the part that may learn, added beside it.

    A transaction. Leave the block normally and the slices become `W + delta`, summed in
    float32 and rounded once; leave it by an exception and no weight was touched. With
    `AllParameters` sums stand in for the parameters meanwhile, so that a module's own attribute is
    no `nn.Parameter` inside the block.
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
        standing = nullcontext() if deltas.standing is None else deltas.standing.within()
        with side_paths(deltas.paths()), expert_paths(bound.model, deltas.ears()), standing:
            yield deltas
        deltas.merge()
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)

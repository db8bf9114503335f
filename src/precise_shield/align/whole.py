"""Full fine-tuning: every parameter of the model learns, beside the weights as they came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.align.parts import AllParameters, Part, parameter_of
from precise_shield.align.slices import UnitSlices, holders_of
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.passes.taps import before_passes


class WholeTensor(Part):
    """A free delta of a parameter's own shape."""

    def __init__(self, slices: UnitSlices, form: AllParameters) -> None:
        super().__init__(slices)
        self.d = parameter_of(torch.zeros(slices.weight.shape), slices.weight, form.master)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """A whole parameter adds to no projection's output.

        Raises:
            TypeError: always; the model computes with `live`.
        """
        raise TypeError("call live(weight)")

    def live(self, weight: Tensor) -> Tensor:
        """The parameter as it is being trained, in its own type; gradients reach the delta."""
        return (weight.detach().to(self.d.dtype) + self.d).to(weight.dtype)

    def update(self) -> Float[Tensor, "units fan"]:
        wide = torch.promote_types(self.d.dtype, torch.float32)
        return self.d.detach().to(wide).reshape(len(self.slices.index), -1)


class Standing:
    """What a model computes with while all of it learns: its parameters plus their deltas.

    They stand in the modules' places of the parameters, wherever those are read, for as long as
    the block of `within` lasts; a parameter that modules share has one delta. They are made anew
    when a delta has moved, so that any forward pass in the block runs the model as it is.
    """

    def __init__(self, bound: BoundModel, parts: Sequence[WholeTensor]) -> None:
        self.bound = bound
        holders = holders_of(bound.model)
        self._parts = [(part, part.slices.weight) for part in parts]
        self._places = [holders[id(weight)] for _, weight in self._parts]
        self._made_at: tuple[int, ...] = ()
        self._made: list[Tensor] = []
        self._open = False
        self.on = True

    @contextmanager
    def within(self) -> Iterator[None]:
        """Stand in for the parameters, and give the places back at the end.

        Raises:
            DeadTapError: the block ended well but the model never ran in it.
        """
        self._open = True
        try:
            with before_passes(self.bound, self.follow):
                yield
        finally:
            self._put([weight for _, weight in self._parts])
            self._open, self._made, self._made_at = False, [], ()

    def follow(self) -> None:
        """Put in place what is to be computed with: the deltas added, or with them off the base."""
        if not self._open:
            return
        if not self.on:
            self._put([weight for _, weight in self._parts])
            return
        moved_at = tuple(part.d._version for part, _ in self._parts)
        if moved_at != self._made_at:
            with torch.inference_mode(False), torch.enable_grad():
                self._made = [part.live(weight) for part, weight in self._parts]
            self._made_at = moved_at
        self._put(self._made)

    def _put(self, tensors: Sequence[Tensor]) -> None:
        for tensor, places in zip(tensors, self._places, strict=True):
            for module, name in places:
                module._parameters[name] = tensor  # type: ignore[assignment]

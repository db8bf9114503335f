"""A language model's blocks as a chain that can be run again from the middle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precise_shield.core.errors import LayoutMismatchError
from precise_shield.models.architecture.bind import BoundModel, resolve
from precise_shield.models.architecture.layouts import layouts_for
from precise_shield.models.passes.taps import recorded

Hidden = Float[Tensor, "batch pos hidden"]


@dataclass(frozen=True)
class Step:
    """One block, or the final norm, as one forward pass ran it."""

    module: nn.Module
    entered: Hidden
    left: Hidden
    more: tuple[Any, ...]
    """Positional arguments after the hidden state."""
    named: Mapping[str, Any]

    def again(self, hidden: Hidden) -> Hidden:
        """Run the module on other hidden states, as many as there are rows, with all else equal."""
        rows = len(hidden)
        more = [_widened(value, rows) for value in self.more]
        named = {name: _widened(value, rows) for name, value in self.named.items()}
        return _hidden(self.module(hidden, *more, **named))


@dataclass(frozen=True)
class Chain:
    """One example's way through the language model: its blocks in order, then the final norm.

    Shapes: every hidden state is `[1, pos, hidden]`.
    """

    steps: tuple[Step, ...]

    @property
    def final(self) -> Hidden:
        """The last hidden state, the final norm included."""
        return self.steps[-1].left

    def index(self, block: nn.Module) -> int:
        """Where a block stands in the chain."""
        return next(i for i, step in enumerate(self.steps) if step.module is block)

    def after(self, start: int, hidden: Hidden, stop: int | None = None) -> Hidden:
        """What the steps above `start` make of `hidden`, which left step `start`.

        `hidden` may have any number of rows. What the model adds between two blocks (the picture
        features of Qwen3-VL) is added again. `stop` leaves out steps at the end, as in a slice.
        """
        steps = self.steps[:stop]
        for before, step in zip(steps[start:], steps[start + 1 :], strict=False):
            if step.entered is not before.left and not torch.equal(step.entered, before.left):
                hidden = hidden + (step.entered - before.left)
            hidden = step.again(hidden)
        return hidden


def blocks(bound: BoundModel) -> list[nn.Module]:
    """The blocks of the language model, by layer number."""
    layout = layouts_for(bound.model.config.model_type)["text"]
    return list(resolve(bound.model, layout.layers, "text").children())


def traced(bound: BoundModel, inputs: Mapping[str, Tensor]) -> Chain:
    """Run the backbone on one example and keep what each block was given.

    Raises:
        LayoutMismatchError: running the blocks again one by one gives another hidden state, so
            the family does something between them that this cannot repeat.
    """
    layout = layouts_for(bound.model.config.model_type)["text"]
    norm = resolve(bound.model, layout.final_norm, "text")
    with recorded([*blocks(bound), norm]) as calls:
        out: Tensor = bound.backbone(**inputs, use_cache=False).last_hidden_state
    chain = Chain(tuple(_step(*call) for call in calls))
    again = chain.after(0, chain.steps[0].left)
    scale = float(out.abs().max()) * torch.finfo(out.dtype).eps
    gap = float((again - out).abs().max())
    if not gap <= 1e3 * scale:
        raise LayoutMismatchError(
            f"{bound.model.config.model_type!r}: its blocks run one by one end {gap:.3g} away from"
            " the model's own hidden state. Choose a score that needs no exact deactivation."
        )
    return chain


def _step(module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any], out: Any) -> Step:
    named = dict(named)
    entered, more = (args[0], args[1:]) if args else (named.pop("hidden_states"), ())
    return Step(module, entered, _hidden(out), more, named)


def _hidden(out: Any) -> Tensor:
    hidden: Tensor = out[0] if isinstance(out, tuple) else out
    return hidden


def _widened(value: Any, rows: int) -> Any:
    """The arguments of one example, repeated without a copy for many rows."""
    if isinstance(value, tuple | list):
        return type(value)(_widened(item, rows) for item in value)
    if isinstance(value, Tensor) and value.dim() > 1 and len(value) == 1:
        return value.expand(rows, *value.shape[1:])
    return value

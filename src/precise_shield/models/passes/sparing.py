"""Less kept for the backward pass: what is cheap to compute again is computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import ACT2CLS

from precise_shield.models.passes.rerun import running

_ACTIVATIONS: tuple[Any, ...] = tuple(
    {kind[0] if isinstance(kind, tuple) else kind for kind in ACT2CLS.values()}
)


def is_cheap(module: nn.Module) -> bool:
    """Whether it is a norm or an activation function: few operations, none of them random."""
    norm = isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")
    return norm or isinstance(module, _ACTIVATIONS)


@contextmanager
def sparing(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, norms and activation functions of these blocks leave only their input in memory.

    What they compute on the way, and their output where another operation keeps it (a gated
    product keeps `act(gate)`, an adapter its input), is computed again in the backward pass, which
    has to be inside too. The same operations on the same values; only the order in which gradients
    are summed can differ. Modules with a weight that trains, and inputs without a gradient, are
    left as they are.

    Raises:
        RuntimeError: in the backward pass, as torch does without it: a tensor that was kept for it,
            a module's input say, was changed in place since.
    """
    made: WeakValueDictionary[int, Tensor] = WeakValueDictionary()

    def pack(kept: Tensor) -> _Whole | _Part:
        output = made.get(kept.untyped_storage().data_ptr())
        if output is None or output._version or not kept.numel():
            return _Whole(kept, kept._version)
        return _Part(output.grad_fn, kept.size(), kept.stride(), int(kept.storage_offset()))

    def unpack(kept: _Whole | _Part) -> Tensor:
        return kept.values()

    with ExitStack() as stack:
        for block in blocks:
            for module in filter(is_cheap, block.modules()):
                if not any(weight.requires_grad for weight in module.parameters()):
                    stack.enter_context(running(module, _noted(module.forward, made)))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, unpack))
        yield


def _noted(
    forward: Callable[..., Any], made: WeakValueDictionary[int, Tensor]
) -> Callable[..., Any]:
    def run(*args: Any, **named: Any) -> Any:
        alone = len(args) == 1 and not named and isinstance(args[0], Tensor)
        if not (alone and torch.is_grad_enabled() and args[0].requires_grad):
            return forward(*args, **named)
        output = _Again.apply(forward, args[0])  # type: ignore[no-untyped-call]
        made[output.untyped_storage().data_ptr()] = output
        return output

    return run


class _Again(torch.autograd.Function):
    """A module that keeps what it is given, and runs again once in the backward pass."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        ctx.run, ctx.rerun = run, None
        ctx.save_for_backward(given)
        return run(given)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        given, output = _rerun(ctx)
        ctx.rerun = None
        (before,) = torch.autograd.grad(output, given, gradient)
        return None, before


def _rerun(ctx: Any) -> tuple[Tensor, Tensor]:
    """Input and output of the second run, which all who ask share."""
    if ctx.rerun is None:
        with torch.enable_grad():
            given = ctx.saved_tensors[0].detach().requires_grad_()
            ctx.rerun = given, ctx.run(given)
    both: tuple[Tensor, Tensor] = ctx.rerun
    return both


class _Whole(NamedTuple):
    """A tensor as it was kept; torch itself does not look at its version where hooks pack."""

    tensor: Tensor
    version: int

    def values(self) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError(
                f"a tensor {list(self.tensor.shape)} that gradients need was changed in place"
                f" after it was kept: version {self.tensor._version}, expected {self.version}."
            )
        return self.tensor


class _Part(NamedTuple):
    """In place of a tensor that was kept: which part of whose output it is."""

    ctx: Any
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def values(self) -> Tensor:
        return _rerun(self.ctx)[1].detach().as_strided(self.size, self.stride, self.offset)

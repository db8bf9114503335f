"""Another forward pass in a module's place: to pass over it, or to run it again for gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def running(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let `module` compute `forward` for the length of the block; its hooks go on working."""
    own = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]
        if own is not None:
            vars(module)["forward"] = own


@contextmanager
def rerun(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Keep nothing of these modules for the backward pass but what they are given; run them again.

    Exact: the same operations on the same values, dropout included. Independent of a model's own
    switch for it, which asks for training mode.
    """
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(running(module, _again(module.forward)))
        yield


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **named)
        return checkpoint(forward, *args, use_reentrant=False, **named)

    return run

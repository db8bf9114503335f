"""Look at, or change, activations while a model runs. The only module that hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from precise_shield.core.errors import DeadTapError
from precise_shield.core.sites import Site
from precise_shield.models.bind import BoundModel

TapFn = Callable[[Site, Tensor], Tensor | None]
"""Called as `fn(site, acts)`, acts `[batch, pos, width]`, or `[patches, width]` in a vision
tower that packs its pictures. Return None to look on, a tensor of the same shape to put in
its place; never write into `acts` itself."""

SidePath = Callable[[Tensor, Tensor], Tensor]
"""Called as `fn(x, y)` with a projection's input and output; returns the output to use."""


class Call(NamedTuple):
    """One call of a module: what it was given and what it gave."""

    module: nn.Module
    args: tuple[Any, ...]
    named: dict[str, Any]
    output: Any


Hook = Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]
OutHook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]


@contextmanager
def tapped(bound: BoundModel, fn: TapFn) -> Iterator[None]:
    """Call `fn` on every site of `bound` in each forward pass inside the block.

    Hooks are removed when the block ends, however it ends, and also when attaching
    one of them fails. Blocks nest; the one opened last sees the earlier ones' edits.

    Raises:
        DeadTapError: the block ended well but some site never fired, so whatever
            was measured was measured on a model that `fn` did not touch.
    """
    silent = set(bound.sites)

    def hook_for(site: Site) -> Hook:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            silent.discard(site)
            edited = fn(site, args[0])
            return None if edited is None else (edited, *args[1:])

        return hook

    with ExitStack() as stack:
        for site, spot in bound.sites.items():
            handle = spot.reader.register_forward_pre_hook(hook_for(site))
            stack.callback(handle.remove)
        yield
    if silent:
        raise DeadTapError(
            f"{len(silent)} of {len(bound.sites)} taps never fired, the first at {min(silent)}."
            " Either no forward pass ran inside the block, or a fused kernel bypassed the module."
        )


@contextmanager
def recorded(modules: Iterable[nn.Module]) -> Iterator[list[Call]]:
    """Keep each call of these modules in the block, in the order in which they end.

    Modules that never run are not missed: Mllama passes over some blocks.
    """
    calls: list[Call] = []

    def hook(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        calls.append(Call(module, args, named, output))

    with ExitStack() as stack:
        for module in modules:
            handle = module.register_forward_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield calls


@contextmanager
def side_paths(paths: Mapping[nn.Module, SidePath]) -> Iterator[None]:
    """Let each `paths[module]` have the last word on that projection's output.

    Nothing of the model is replaced or copied; the paths are gone when the block ends.

    Raises:
        DeadTapError: the block ended well but some module never ran.
    """
    silent = set(paths)

    def hook_for(path: SidePath) -> OutHook:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            silent.discard(module)
            return path(args[0], output)

        return hook

    with ExitStack() as stack:
        for module, path in paths.items():
            stack.callback(module.register_forward_hook(hook_for(path)).remove)
        yield
    if silent:
        raise DeadTapError(
            f"{len(silent)} of {len(paths)} trained projections never ran inside the block."
            " Nothing that was learned there could have mattered."
        )

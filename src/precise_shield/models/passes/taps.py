"""Look at, or change, activations while a model runs. The only module that hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from precise_shield.core.errors import DeadTapError
from precise_shield.core.sites import Site
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.architecture.units import BoundSite
from precise_shield.models.passes.experts import Ear, Routing, listening
from precise_shield.models.passes.rerun import running

TapFn = Callable[[Site, Tensor], Tensor | None]
"""Called as `fn(site, acts)`, acts `[batch, pos, width]`, or `[patches, width]` in a vision
tower that packs its pictures. An expert's acts are 0 at the tokens that are not routed to it;
what is put there has no effect. Return None to look on, a tensor of the same shape to put in
its place; never write into `acts` itself. Gradients flow through what is returned."""

SidePath = Callable[[Tensor, Tensor], Tensor]
"""Called as `fn(x, y)` with a projection's input and output; returns the output to use."""


class Call(NamedTuple):
    """One call of a module: what it was given and what it gave."""

    module: nn.Module
    args: tuple[Any, ...]
    named: dict[str, Any]
    output: Any


Hook = Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]
OutHook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]
Shapes = dict[nn.Module, tuple[int, ...]]
"""Batch and position sizes that a block was last called with."""


@contextmanager
def tapped(bound: BoundModel, fn: TapFn) -> Iterator[None]:
    """Call `fn` on every site of `bound` in each forward pass inside the block.

    Hooks are removed when the block ends, however it ends, and also when attaching
    one of them fails. Blocks nest; the one opened last sees the earlier ones' edits.

    Raises:
        DeadTapError: the block ended well but some site never fired, so whatever
            was measured was measured on a model that `fn` did not touch. An expert
            that no token was routed to does fire, with zeros.
    """
    silent = set(bound.sites)

    def heard(site: Site, acts: Tensor) -> Tensor | None:
        silent.discard(site)
        return fn(site, acts)

    with ExitStack() as stack:
        shapes = _watched(bound, stack)
        inside: dict[nn.Module, dict[Site, BoundSite]] = {}
        for site, spot in bound.sites.items():
            if spot.point == "experts":
                inside.setdefault(spot.reader, {})[site] = spot
            elif spot.point == "input":
                hook = _input_hook(site, spot, heard, shapes)
                stack.callback(spot.reader.register_forward_pre_hook(hook).remove)
            else:
                out_hook = _output_hook(site, spot, heard)
                stack.callback(spot.reader.register_forward_hook(out_hook).remove)
        ears = {
            reader: Ear(neurons=_expert_ear(sites, heard, shapes))
            for reader, sites in inside.items()
        }
        stack.enter_context(listening(bound.model, ears))
        yield
    if silent:
        raise DeadTapError(
            f"{len(silent)} of {len(bound.sites)} taps never fired, the first at {min(silent)}."
            " Either no forward pass ran inside the block, or a fused kernel bypassed the module."
        )


def _watched(bound: BoundModel, stack: ExitStack) -> Shapes:
    """Note the shape of what enters each block whose readers see tokens in one row."""
    shapes: Shapes = {}

    def note(block: nn.Module, args: tuple[Any, ...]) -> None:
        shapes[block] = tuple(args[0].shape[:-1])

    for block in {spot.block: None for spot in bound.sites.values() if spot.block is not None}:
        stack.callback(block.register_forward_pre_hook(note).remove)
    return shapes


def _input_hook(site: Site, spot: BoundSite, fn: TapFn, shapes: Shapes) -> Hook:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        acts: Tensor = args[0]
        seen = acts if spot.block is None else acts.view(*shapes[spot.block], spot.width)
        edited = fn(site, seen)
        return None if edited is None else (edited.view_as(acts), *args[1:])

    return hook


def _output_hook(site: Site, spot: BoundSite, fn: TapFn) -> OutHook:
    start, stop = spot.offset, spot.offset + spot.width

    def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor | None:
        edited = fn(site, output[..., start:stop])
        if edited is None:
            return None
        return torch.cat([output[..., :start], edited, output[..., stop:]], -1)

    return hook


def _expert_ear(
    sites: Mapping[Site, BoundSite], fn: TapFn, shapes: Shapes
) -> Callable[[Tensor, Routing], Tensor]:
    def ear(h: Tensor, routing: Routing) -> Tensor:
        parts = [h[routing.rows(number)] for number in range(len(routing.bounds) - 1)]
        changed = False
        for site, spot in sites.items():
            assert spot.expert is not None
            assert spot.block is not None
            tokens = routing.tokens[routing.rows(spot.expert)]
            spread = h.new_zeros(routing.total, spot.width)
            spread = spread.index_copy(0, tokens, parts[spot.expert])
            edited = fn(site, spread.view(*shapes[spot.block], spot.width))
            if edited is not None:
                changed = True
                parts[spot.expert] = edited.reshape(routing.total, spot.width)[tokens]
        return torch.cat(parts) if changed else h

    return ear


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


def lasting(paths: Mapping[nn.Module, SidePath]) -> None:
    """Let each path have a say in its projection's output for as long as the model lives.

    It comes before what taps and side paths see. For rows that are held beside a quantised weight.
    """

    def hook_for(path: SidePath) -> OutHook:
        return lambda _, args, output: path(args[0], output)

    for module, path in paths.items():
        module.register_forward_hook(hook_for(path))


@contextmanager
def expert_paths(model: PreTrainedModel, ears: Mapping[nn.Module, Ear]) -> Iterator[None]:
    """Let each `ears[stack]` add to what that stack of experts computes; see `side_paths`.

    Raises:
        DeadTapError: the block ended well but some stack never ran. Experts that no token was
            routed to are not missed.
    """
    silent = set(ears)

    def noting(stack: nn.Module, ear: Ear) -> Ear:
        def heard(h: Tensor, routing: Routing) -> Tensor:
            silent.discard(stack)
            return h if ear.neurons is None else ear.neurons(h, routing)

        return replace(ear, neurons=heard)

    with listening(model, {stack: noting(stack, ear) for stack, ear in ears.items()}):
        yield
    if silent:
        raise DeadTapError(
            f"{len(silent)} of {len(ears)} trained stacks of experts never ran inside the block."
            " Nothing that was learned there could have mattered."
        )


@contextmanager
def before_passes(bound: BoundModel, fn: Callable[[], None]) -> Iterator[None]:
    """Call `fn` before each pass through the backbone, before anything of it is computed.

    Raises:
        DeadTapError: the block ended well but the model never ran.
    """
    ran = False

    def hook(*_: object) -> None:
        nonlocal ran
        ran = True
        fn()

    handle = bound.backbone.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if not ran:
        raise DeadTapError(
            "the model never ran inside the block. Nothing that was learned could have mattered."
        )


class Arrivals(dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]]):
    """What modules were given: positional and named arguments of each one's last call."""


class _Enough(Exception):
    """Ends a forward pass that has shown what was asked for."""


@contextmanager
def arriving(modules: Iterable[nn.Module], last: nn.Module | None = None) -> Iterator[Arrivals]:
    """Keep what each of these modules is given; the pass ends on arrival at `last`.

    Nothing after the call of the model in the block runs when the pass ends there.
    """
    seen = Arrivals()

    def hook(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen[module] = args, named
        if module is last:
            raise _Enough

    with ExitStack() as stack:
        for module in modules:
            handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        with suppress(_Enough):
            yield seen


@contextmanager
def entering(
    text: nn.Module,
    named: Mapping[str, Any],
    skipped: Iterable[nn.Module],
    block: nn.Module,
    enter: Callable[[Tensor], Tensor],
) -> Iterator[None]:
    """Enter a language model at one of its blocks.

    Args:
        text: the module that runs the blocks.
        named: put in place of its arguments of these names.
        skipped: the blocks below; they hand on what they are given.
        block: the first one that runs.
        enter: gets the hidden state that arrives there and returns the one to go on with.
    """

    def given(_: nn.Module, args: tuple[Any, ...], own: dict[str, Any]) -> Any:
        return args, {**own, **named}

    def replaced(_: nn.Module, args: tuple[Any, ...], own: dict[str, Any]) -> Any:
        if args:
            return (enter(args[0]), *args[1:]), own
        return args, {**own, "hidden_states": enter(own["hidden_states"])}

    def passed(*args: Any, **own: Any) -> Any:
        return args[0] if args else own["hidden_states"]

    with ExitStack() as stack:
        if named:
            handle = text.register_forward_pre_hook(given, with_kwargs=True)
            stack.callback(handle.remove)
        for module in skipped:
            stack.enter_context(running(module, passed))
        handle = block.register_forward_pre_hook(replaced, with_kwargs=True)
        stack.callback(handle.remove)
        yield

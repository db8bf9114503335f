"""While tests run, every call into the package is held to the types that it declares.

`jaxtyping` checks shapes, and pays for it at each call, whether or not a signature has any. So it
gets the functions whose signature does; the others are checked by `beartype` alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import jaxtyping

Checker = Callable[[Any], Any]

with_shapes = jaxtyping.jaxtyped


def install() -> None:
    """Choose for each function of a package that is imported from here on."""
    jaxtyping.jaxtyped = decorator


def decorator(*, typechecker: Checker) -> Checker:
    """What the import hook of `jaxtyping` puts on every function and class."""

    def decorate(thing: Any) -> Any:
        if not isinstance(thing, type):
            return checked(thing, typechecker)
        if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = checked(thing.__init__, typechecker)
        return thing

    return decorate


def checked(function: Any, typechecker: Checker) -> Any:
    hints = {name: resolved(hint, function) for name, hint in function.__annotations__.items()}
    if any(map(has_shape, hints.values())):
        return with_shapes(function, typechecker=typechecker)
    function.__annotations__ = hints
    return typechecker(function)


def resolved(hint: Any, owner: Any) -> Any:
    """The type that an annotation names; `Any`, as for `jaxtyping`, where it only reads as one."""

    def holder() -> None: ...

    holder.__annotations__ = {"hint": hint}
    try:
        return get_type_hints(holder, owner.__globals__, include_extras=True)["hint"]
    except (NameError, TypeError):  # defined further down; `DictReader[str]`
        return Any


def has_shape(hint: Any) -> bool:
    """Whether the shape of an array stands anywhere in a type."""
    if isinstance(hint, list | tuple):
        return any(map(has_shape, hint))
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(has_shape, get_args(hint)))

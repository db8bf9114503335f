"""Named choices: a collision raises, an unknown name suggests the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from precise_shield.core.errors import ConfigError

T = TypeVar("T")


def suggestion(name: str, known: Mapping[str, object] | list[str]) -> str:
    """Say which known names look like `name`, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=2)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


class Registry(Mapping[str, T], Generic[T]):
    """A table of named things of one kind.

    >>> scores: Registry[int] = Registry("score")
    >>> scores.register("one")(1)
    1
    >>> scores["one"]
    1
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._rows: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Add a row, as a decorator or by a call.

        Raises:
            ValueError: the name is taken; a silent overwrite would hide a bug.
        """

        def add(row: T) -> T:
            if name in self._rows:
                raise ValueError(f"{self.noun} {name!r} is already registered")
            self._rows[name] = row
            return row

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._rows:
            hint = suggestion(name, self._rows)
            raise ConfigError(
                f"no {self.noun} {name!r}.{hint} Known: {', '.join(sorted(self._rows))}."
            )
        return self._rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

"""Names for the places where neurons live, and sets of neurons at those places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from precise_shield.core.errors import DataError

Tower = Literal["text", "vision"]
UnitKind = Literal["ffn", "expert", "query", "key", "value", "attention"]
"""What one row of neurons is.

`ffn`: entries of the vector that a feed-forward down-projection reads. `expert`: the same inside
one routed expert. `query`, `key`, `value`: outputs of the attention's input projections, so unit i
owns row i of W_Q, W_K or W_V. `attention`: entries of the vector that the attention's output
projection reads, so unit i owns column i of W_O."""

TOWERS: tuple[Tower, ...] = get_args(Tower)
KINDS: tuple[UnitKind, ...] = get_args(UnitKind)
FEED_FORWARD: tuple[UnitKind, ...] = ("ffn", "expert")
"""Kinds that make up a block's feed-forward part."""


@dataclass(frozen=True, order=True)
class Site:
    """One row of neurons, named without reference to any module: `text.12.ffn`.

    Raises:
        ValueError: an `expert` site does not say which expert, or another site does.
    """

    tower: Tower
    layer: int
    kind: UnitKind = "ffn"
    expert: int | None = None
    """Which routed expert of the layer, counted from 0; None for every other kind."""

    def __post_init__(self) -> None:
        if (self.kind == "expert") != (self.expert is not None):
            raise ValueError(f"a site of kind {self.kind!r} cannot have expert {self.expert}")

    def __str__(self) -> str:
        tail = "" if self.expert is None else f".{self.expert}"
        return f"{self.tower}.{self.layer}.{self.kind}{tail}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read back what `str()` writes: `text.12.ffn`, or `text.12.expert.5`.

        Raises:
            DataError: it is not the name of a site.
        """
        tower, _, tail = text.partition(".")
        layer, _, tail = tail.partition(".")
        kind, *expert = tail.split(".")
        numbers = [layer, *expert]
        known = tower in TOWERS and kind in KINDS and len(expert) == (kind == "expert")
        if known and all(number.isascii() and number.isdigit() for number in numbers):
            return cls(tower, int(layer), kind, *map(int, expert))  # type: ignore[arg-type]
        raise DataError(
            f"{text!r} is no site; sites look like 'text.12.ffn', 'text.12.query' or"
            " 'text.12.expert.5'"
        )


@dataclass(frozen=True)
class NeuronSet:
    """An immutable set of neurons, grouped by site; sites without neurons are dropped.

    `units[site]` holds strictly increasing unit indices into that site's width.
    """

    units: Mapping[Site, tuple[int, ...]]

    @classmethod
    def of(cls, units: Mapping[Site, Iterable[int]]) -> NeuronSet:
        """Build from any iterables of unit indices; order and repeats do not matter."""
        clean = {site: tuple(sorted(set(ids))) for site, ids in sorted(units.items())}
        return cls({site: ids for site, ids in clean.items() if ids})

    @classmethod
    def union(cls, sets: Iterable[NeuronSet]) -> NeuronSet:
        """All neurons that are in at least one of `sets`; empty for no sets."""
        units: dict[Site, set[int]] = {}
        for one in sets:
            for site, ids in one.units.items():
                units.setdefault(site, set()).update(ids)
        return cls.of(units)

    def __len__(self) -> int:
        return sum(len(ids) for ids in self.units.values())

    def __bool__(self) -> bool:
        return bool(self.units)

    def __and__(self, other: NeuronSet) -> NeuronSet:
        shared = self.units.keys() & other.units.keys()
        return NeuronSet.of({s: set(self.units[s]) & set(other.units[s]) for s in shared})

    def __or__(self, other: NeuronSet) -> NeuronSet:
        return NeuronSet.union([self, other])

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        return NeuronSet.of(
            {s: {*ids} - {*other.units.get(s, ())} for s, ids in self.units.items()}
        )

    def counts(self) -> dict[Site, int]:
        """How many neurons each site holds; sites without any are absent."""
        return {site: len(ids) for site, ids in self.units.items()}

    def share_of(self, other: NeuronSet) -> float:
        """Directed share |A ∩ B| / |A| (Precise Shield, Fig. 4); NaN when A is empty."""
        return len(self & other) / len(self) if self else float("nan")

    def jaccard(self, other: NeuronSet) -> float:
        """|A ∩ B| / |A ∪ B|, in [0, 1]; NaN when both are empty, for 0/0 is no overlap figure."""
        union = len(self | other)
        return len(self & other) / union if union else float("nan")

    def to_json(self) -> dict[str, list[int]]:
        """A JSON object `{"text.12.ffn": [3, 17], ...}`."""
        return {str(site): list(ids) for site, ids in self.units.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NeuronSet:
        """Read `to_json` back.

        Raises:
            DataError: a key is no site, or a value no list of distinct non-negative integers.
        """
        for key, ids in data.items():
            ok = isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids)
            if not ok or len(set(ids)) != len(ids):
                raise DataError(
                    f"neurons of {key!r} must be distinct indices from 0 up, got {ids!r:.80}"
                )
        return cls.of({Site.parse(key): ids for key, ids in data.items()})

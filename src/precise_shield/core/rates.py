"""Proportions that carry their own uncertainty, and what could not be judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb, nan, sqrt
from typing import Any, NamedTuple, Protocol, TypedDict, runtime_checkable

Z95 = 1.959963984540054
"""Two-sided 95 % point of the standard normal distribution."""


def or_null(value: float) -> float | None:
    """JSON has no NaN: what is undefined is null, and the rest has six digits."""
    return None if value != value else round(value, 6)


@runtime_checkable
class Estimated(Protocol):
    """A figure with its 95 % interval; NaN where it is undefined."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class Estimate(NamedTuple):
    """The plainest `Estimated`."""

    value: float
    low: float
    high: float


class Figures(TypedDict):
    """The fields that say an estimate in a row of `summary.json`."""

    value: float | None
    low: float | None
    high: float | None


def figures(found: Estimated) -> Figures:
    """An estimate as fields of a row, each as `or_null` gives it: `Row(..., **figures(found))`."""
    return {
        "value": or_null(found.value),
        "low": or_null(found.low),
        "high": or_null(found.high),
    }


@dataclass(frozen=True)
class Rate:
    """`hits` of `judged` answers, with `unscored` ones set aside.

    An answer the judge could not read is neither a hit nor a miss. It never enters
    the rate, it is always printed beside it, and `bounds` says what it could change.
    """

    hits: int
    judged: int
    unscored: int = 0

    @property
    def value(self) -> float:
        """Share of judged answers that were hits, in [0, 1]; NaN when none was judged."""
        return self.hits / self.judged if self.judged else nan

    def interval(self, z: float = Z95, effective: float | None = None) -> tuple[float, float]:
        """Wilson score interval; the default `z` gives 95 %.

        Still honest at 0 % and 100 %, where the usual `p ± z·se` has no width. Answers that hang
        together (translations of one request) are worth fewer than they are: `effective` says how
        many independent ones.

        Source: Wilson (1927), "Probable Inference, the Law of Succession, and
            Statistical Inference", JASA 22(158), 209-212; with an effective sample size:
            Dean & Pagano (2015), J. Survey Statistics and Methodology 3, 484-503.
        """
        if not self.judged:
            return nan, nan
        n, p = self.judged if effective is None else effective, self.value
        centre = p + z * z / (2 * n)
        spread = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)

    @property
    def bounds(self) -> tuple[float, float]:
        """The rate if every unscored answer were a miss, and if every one were a hit."""
        total = self.judged + self.unscored
        if not total:
            return nan, nan
        return self.hits / total, (self.hits + self.unscored) / total

    def __add__(self, other: Rate) -> Rate:
        return Rate(
            self.hits + other.hits, self.judged + other.judged, self.unscored + other.unscored
        )

    def __str__(self) -> str:
        low, high = self.interval()
        figure = f"{self.value:.1%} [{low:.1%}, {high:.1%}]" if self.judged else "undefined"
        return f"{figure} n={self.judged} unscored={self.unscored}"

    def to_json(self) -> dict[str, Any]:
        """Counts first, then what follows from them; undefined figures are null."""
        found = figures(Estimate(self.value, *self.interval()))
        return {"hits": self.hits, "n": self.judged, "unscored": self.unscored, **found}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rate:
        """Read the counts of `to_json` back."""
        return cls(int(data["hits"]), int(data["n"]), int(data["unscored"]))


@dataclass(frozen=True)
class Paired:
    """The same prompts judged in two conditions: who changed, and which way.

    Only prompts that are scored in both conditions count; the rest is `unscored`.
    """

    both: int
    """Hits before and after."""

    only_before: int
    only_after: int
    neither: int
    unscored: int = 0

    @classmethod
    def of(cls, before: Mapping[str, bool | None], after: Mapping[str, bool | None]) -> Paired:
        """Pair outcomes by example id; None is unscored, an id on one side only is too."""
        table = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
        unscored = 0
        for key in before.keys() | after.keys():
            was, now = before.get(key), after.get(key)
            if was is None or now is None:
                unscored += 1
            else:
                table[was, now] += 1
        return cls(
            table[True, True], table[True, False], table[False, True], table[False, False], unscored
        )

    @property
    def n(self) -> int:
        """Prompts that are scored in both conditions."""
        return self.both + self.only_before + self.only_after + self.neither

    @property
    def difference(self) -> float:
        """Rate after minus rate before; NaN when no prompt is scored in both."""
        return (self.only_after - self.only_before) / self.n if self.n else nan

    def interval(self, z: float = Z95, effective: float | None = None) -> tuple[float, float]:
        """Interval of the paired difference, from the discordant pairs.

        Like `Rate.interval` it keeps a width where every pair, or none, changes. Pairs that hang
        together are worth fewer than they are: `effective` says how many independent ones.

        Source: Agresti & Min (2005), "Simple improved confidence intervals for comparing
            matched proportions", Statistics in Medicine 24, 729-740 (add 1/2 a cell).
        """
        if not self.n:
            return nan, nan
        worth = 1.0 if effective is None else effective / self.n
        n = self.n * worth + 2
        b, c = self.only_before * worth + 0.5, self.only_after * worth + 0.5
        centre = (c - b) / n
        spread = z * sqrt((b + c) - (c - b) ** 2 / n) / n
        return max(-1.0, centre - spread), min(1.0, centre + spread)

    @property
    def p_value(self) -> float:
        """Exact two-sided McNemar test; NaN when no pair is discordant."""
        flips = self.only_before + self.only_after
        if not flips:
            return nan
        tail = sum(comb(flips, k) for k in range(min(self.only_before, self.only_after) + 1))
        return min(1.0, float(2 * tail / 2**flips))

    def to_json(self) -> dict[str, Any]:
        """The table and what follows from it; undefined figures are null."""
        low, high = self.interval()
        found = {"difference": self.difference, "low": low, "high": high, "p_value": self.p_value}
        clean = {key: or_null(figure) for key, figure in found.items()}
        return {"n": self.n, "unscored": self.unscored, **clean}

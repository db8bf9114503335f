"""Exact permutation tests of a correlation, for as few points as there are languages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations
from math import atanh, comb, factorial, nan, sqrt, tanh

import numpy as np
from numpy.typing import ArrayLike, NDArray

from precise_shield.core.rates import Z95

EXACT_UP_TO = 10
"""Points up to which every order is counted: 10! = 3.6 million."""

Vector = NDArray[np.float64]
_SLACK = 1e-9


@dataclass(frozen=True)
class Correlation:
    """A correlation and how often chance alone gives one as strong."""

    r: float
    """Pearson's, or partial; NaN where a variable does not vary or points are too few."""

    low: float
    high: float
    """95 % interval by Fisher's z."""

    p_value: float
    """Two-sided: the share of orders with `|r|` at least as large."""

    permutations: int
    exact: bool


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    given: ArrayLike | None = None,
    *,
    draws: int = 9999,
    seed: int = 0,
) -> Correlation:
    """Correlate `x` with `y`, with `given` partialled out of both if there is one.

    Every order of `y` is counted up to `EXACT_UP_TO` points; beyond, `draws` random orders are
    taken and p is (1 + #) / (1 + draws). With `given` it is the residuals of `y` that change
    places, and each order's partial correlation is formed anew.

    Shapes: all `[points]`.

    Source: Freedman & Lane (1983), "A nonstochastic interpretation of reported significance
        levels", J. Business & Economic Statistics 1, 292-298 (residuals); the orders are summed
        in halves, so that 10! orders cost 252 tables of 120 x 120.

    Raises:
        ValueError: the lengths differ.
    """
    one, two = np.asarray(x, np.float64), np.asarray(y, np.float64)
    third = None if given is None else np.asarray(given, np.float64)
    if one.ndim != 1 or one.shape != two.shape or (third is not None and third.shape != one.shape):
        raise ValueError("correlated values must be vectors of one length")
    n, exact = len(one), len(one) <= EXACT_UP_TO
    count = factorial(n) if exact else draws
    if n < 3:
        return Correlation(nan, nan, nan, nan, count, exact)
    left, right = one - one.mean(), two - two.mean()
    axis = np.zeros(n)  # of `given`: a unit vector, or nothing
    if third is not None and np.ptp(third) > 0:
        axis = third - third.mean()
        axis /= np.linalg.norm(axis)
    left, right = left - axis * (left @ axis), right - axis * (right @ axis)
    freedom = n - 3 - (third is not None)
    scale = [float(np.linalg.norm(v)) for v in (left, right)]
    sizes = [max(1.0, float(np.abs(v).max())) for v in (one, two)]
    if min(s / size for s, size in zip(scale, sizes, strict=True)) < _SLACK:
        return Correlation(nan, nan, nan, nan, count, exact)
    r = float(left @ right / (scale[0] * scale[1]))
    low, high = _fisher(r, freedom)
    test = _Orders(left / scale[0], right / scale[1], axis, abs(r) - _SLACK)
    p = test.counted() / count if exact else (1 + test.drawn(draws, seed)) / (1 + draws)
    return Correlation(r, low, high, p, count, exact)


def _fisher(r: float, freedom: int) -> tuple[float, float]:
    """95 % interval; NaN where there is no freedom or no spread."""
    if freedom < 1 or abs(r) >= 1 - _SLACK:
        return nan, nan
    spread = Z95 / sqrt(freedom)
    return tanh(atanh(r) - spread), tanh(atanh(r) + spread)


@dataclass(frozen=True)
class _Orders:
    """Orders of `right` against a fixed `left`; both have norm 1 and are free of `axis`."""

    left: Vector
    right: Vector
    axis: Vector
    least: float

    def counted(self) -> int:
        """How many of all orders reach `least`, in two halves that are added in a table."""
        n, hits = len(self.left), 0
        half = n // 2
        first, second = _orders(half), _orders(n - half)
        everyone = set(range(n))
        for chosen in combinations(range(n), half):
            rest = sorted(everyone - set(chosen))
            head = self.right[np.array(chosen, int)][first]  # [half!, half]
            tail = self.right[np.array(rest, int)][second]
            along = np.add.outer(head @ self.left[:half], tail @ self.left[half:])
            beside = np.add.outer(head @ self.axis[:half], tail @ self.axis[half:])
            hits += self._reached(along, beside)
        return hits

    def drawn(self, draws: int, seed: int) -> int:
        """How many of `draws` random orders reach `least`."""
        generator = np.random.default_rng(seed)
        rows = np.tile(self.right, (draws, 1))
        shuffled = generator.permuted(rows, axis=1)
        return self._reached(shuffled @ self.left, shuffled @ self.axis)

    def _reached(self, along: Vector, beside: Vector) -> int:
        """What an order leaves along `axis` is taken out again before it is correlated."""
        kept = np.sqrt(np.clip(1 - beside**2, 0.0, 1.0))
        return int((np.abs(along) >= self.least * kept).sum())


def _orders(n: int) -> NDArray[np.int64]:
    """Every order of n things, `[n!, n]`."""
    return np.array(list(permutations(range(n))), np.int64).reshape(factorial(n), n)


def sign_flip(values: ArrayLike, *, draws: int = 9999, seed: int = 0) -> float:
    """One-sided p that the mean is above 0: the share of sign patterns with as high a mean.

    Every pattern is counted up to 16 values; beyond, `draws` random ones. NaN without values.
    """
    numbers = np.asarray(values, np.float64)
    n = len(numbers)
    if not n:
        return nan
    exact = n <= 16
    if exact:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], (draws, n))
    hits = int((signs @ numbers >= numbers.sum() - _SLACK).sum())
    return hits / 2**n if exact else (1 + hits) / (1 + draws)


def group_difference(values: ArrayLike, inside: ArrayLike) -> tuple[float, float, int]:
    """Mean inside minus mean outside, its exact two-sided p, and how many relabellings it has.

    p is the share of all ways to pick as many members that differ at least as much; both are
    NaN where one side is empty.
    """
    numbers, member = np.asarray(values, np.float64), np.asarray(inside, bool)
    n, k = len(numbers), int(member.sum())
    ways = comb(n, k)
    if not 0 < k < n:
        return nan, nan, ways
    total = float(numbers.sum())
    sums = np.array([numbers[list(pick)].sum() for pick in combinations(range(n), k)])
    every = sums / k - (total - sums) / (n - k)
    found = float(numbers[member].mean() - numbers[~member].mean())
    return found, float((np.abs(every) >= abs(found) - _SLACK).mean()), ways

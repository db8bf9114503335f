"""Intervals that know that translations of one request are not independent requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

import numpy as np

DRAWS = 2000


@dataclass(frozen=True)
class GroupedDifference:
    """A paired difference of shares, with an interval from resampling whole groups.

    Fractions in [-1, 1]; NaN where nothing is scored on both sides, and no interval below two
    groups.
    """

    difference: float
    low: float
    high: float
    n: int
    groups: int
    unscored: int
    p_value: float = nan
    """Two-sided: the signs of whole groups' changes drawn at random; NaN where nothing changed."""

    @property
    def excludes_zero(self) -> bool:
        """The 95 % interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def grouped_difference(
    before: Mapping[str, bool | None],
    after: Mapping[str, bool | None],
    groups: Mapping[str, str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> GroupedDifference:
    """Share of hits after minus before, over examples that are scored on both sides.

    Args:
        before: outcome by example id; None is unscored.
        after: the same examples in the other condition.
        groups: parallel group of each example: the unit that is resampled.
        draws: bootstrap draws.
        seed: of the draws.

    Source: percentile bootstrap over clusters, Davison & Hinkley (1997), section 3.8; sign
        flipping, Fisher (1935), "The Design of Experiments", section 21.
    """
    sums: dict[str, list[int]] = {}
    unscored = 0
    for key in before.keys() | after.keys():
        was, now = before.get(key), after.get(key)
        if was is None or now is None:
            unscored += 1
            continue
        row = sums.setdefault(groups[key], [0, 0])
        row[0] += int(now) - int(was)
        row[1] += 1
    if not sums:
        return GroupedDifference(nan, nan, nan, 0, 0, unscored)
    table = np.array([sums[name] for name in sorted(sums)], dtype=float)  # [groups, 2]
    value, n = float(table[:, 0].sum() / table[:, 1].sum()), int(table[:, 1].sum())
    if len(table) < 2:
        return GroupedDifference(value, nan, nan, n, len(table), unscored)
    rng = np.random.default_rng(seed)
    picks = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=draws)
    totals = picks @ table
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])
    p = _sign_flips(table[:, 0], draws, rng)
    return GroupedDifference(value, float(low), float(high), n, len(table), unscored, p)


def _sign_flips(
    changes: np.ndarray[tuple[int], np.dtype[np.float64]], draws: int, rng: np.random.Generator
) -> float:
    """Randomisation test of no change: (1 + #{|sum| as large}) / (1 + draws)."""
    if not changes.any():
        return nan
    signs = rng.choice((-1.0, 1.0), size=(draws, len(changes)))
    as_large = int((np.abs(signs @ changes) >= abs(changes.sum()) - 1e-9).sum())
    return (1 + as_large) / (1 + draws)

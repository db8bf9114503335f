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


@dataclass(frozen=True)
class GroupedRatio:
    """A ratio of two paired differences with an interval from resampling whole groups."""

    value: float
    low: float
    high: float


UNKNOWN = GroupedRatio(nan, nan, nan)


def grouped_ratio(
    before: Mapping[str, bool | None],
    left: Mapping[str, bool | None],
    whole: Mapping[str, bool | None],
    groups: Mapping[str, str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> GroupedRatio:
    """How much of the change from `before` to `whole` the change from `before` to `left` is.

    Over examples that are scored in all three. Draws in which `whole` changes nothing, or in the
    other direction than it does in the data, have no such share and are left out; more than one in
    twenty of them and there is no interval.

    Args:
        before: outcome by example id; None is unscored.
        left: the same examples after a part of the change was undone.
        whole: the same examples after the whole change.
        groups: parallel group of each example: the unit that is resampled.
        draws: bootstrap draws.
        seed: of the draws.

    Source: percentile bootstrap of a ratio over clusters, Davison & Hinkley (1997), sections 2.4
        and 3.8.
    """
    sums: dict[str, list[int]] = {}
    for key in before.keys() & left.keys() & whole.keys():
        was, part, full = before[key], left[key], whole[key]
        if was is not None and part is not None and full is not None:
            row = sums.setdefault(groups[key], [0, 0])
            row[0] += int(part) - int(was)
            row[1] += int(full) - int(was)
    table = np.array([sums[name] for name in sorted(sums)], dtype=float).reshape(-1, 2)
    total = table.sum(0)
    if not total[1]:
        return UNKNOWN
    value = float(total[0] / total[1])
    if len(table) < 2:
        return GroupedRatio(value, nan, nan)
    rng = np.random.default_rng(seed)
    totals = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=draws) @ table
    kept = totals[totals[:, 1] * total[1] > 0]
    if len(kept) < 0.95 * draws:
        return GroupedRatio(value, nan, nan)
    low, high = np.quantile(kept[:, 0] / kept[:, 1], [0.025, 0.975])
    return GroupedRatio(value, float(low), float(high))

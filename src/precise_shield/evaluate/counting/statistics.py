"""Tests and intervals that the measures need, on plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, isnan, nan

import numpy as np
from numpy.typing import ArrayLike

from precise_shield.core.errors import NumericError
from precise_shield.core.rates import Rate


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number; the family-wise error stays below the level.

    NaN stays NaN and does not count: where no pair is discordant no level can be reached.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure",
        Scand. J. Statistics 6, 65-70; untestable hypotheses: Tarone (1990), Biometrics 46.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if not isnan(p))
    corrected = [nan] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        corrected[place] = highest
    return corrected


def effective_size(hits: Sequence[int], judged: Sequence[int]) -> float:
    """How many independent answers the answers of these groups are worth for their rate.

    The number of answers over the design effect, at most the answers themselves and at least the
    groups; at 0 % and 100 %, where the design effect is unknown, the number of groups.

    Args:
        hits: of each group, counts.
        judged: of each group, counts, at least one each.

    Source: Kish (1965), "Survey Sampling"; linearised variance of a ratio over clusters, Cochran
        (1977), "Sampling Techniques", section 9A.5.
    """
    h, n = np.asarray(hits, dtype=np.float64), np.asarray(judged, dtype=np.float64)
    groups, total = len(n), float(n.sum())
    if groups < 2 or total == groups:
        return total
    p = float(h.sum()) / total
    if p in (0.0, 1.0):
        return float(groups)
    variance = groups / (groups - 1) * float(((h - p * n) ** 2).sum()) / total**2
    alone = p * (1 - p) / total
    return min(total, max(float(groups), total * alone / variance)) if variance else total


def effective_pairs(changes: Sequence[Sequence[int]]) -> float:
    """How many independent pairs the pairs of these groups are worth for a paired difference.

    As `effective_size`: the pairs over the design effect, at most the pairs themselves and at
    least the groups; where all groups change alike, and the design effect is unknown, the groups.

    Args:
        changes: of each group, what each pair does: 1, 0 or -1; at least one pair a group.
    """
    sums = np.array([sum(group) for group in changes], dtype=np.float64)
    n = np.array([len(group) for group in changes], dtype=np.float64)
    groups, total = len(n), float(n.sum())
    if total == groups:
        return total
    mean = float(sums.sum()) / total
    square = sum(step * step for group in changes for step in group) / total
    between = float(((sums - mean * n) ** 2).sum())
    if groups < 2 or not between:
        return float(groups)
    variance = groups / (groups - 1) * between / total**2
    return min(total, max(float(groups), (square - mean**2) / variance))


def certain_apart(rates: Sequence[float], groups: Sequence[int]) -> tuple[float, float]:
    """Interval of the first minus the second of two rates at 0 or 1, over their groups.

    There no draw of a bootstrap differs, and yet nothing is certain.

    Source: Newcombe (1998), Statistics in Medicine 17, 873-890, method 10.
    """
    ends = [Rate(round(p) * n, n).interval() for p, n in zip(rates, groups, strict=True)]
    (low, high), (other_low, other_high) = ends
    value = rates[0] - rates[1]
    down = hypot(rates[0] - low, other_high - rates[1])
    up = hypot(high - rates[0], rates[1] - other_low)
    return value - down, value + up


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting half.

    Args:
        scores: `[n]`, any unit.
        labels: `[n]`, true for positive.

    Returns:
        In [0, 1]; NaN without a positive or without a negative.

    Raises:
        NumericError: a score is NaN.
        ValueError: the lengths differ.
    Source: Mann & Whitney (1947), Ann. Math. Statist. 18, 50-60: U / (n1 n0).
    """
    values = np.asarray(scores, dtype=np.float64)
    positive = np.asarray(labels, dtype=bool)
    if values.shape != positive.shape or values.ndim != 1:
        raise ValueError(f"{values.shape} scores for {positive.shape} labels")
    if np.isnan(values).any():
        raise NumericError(f"{int(np.isnan(values).sum())} of {values.size} scores are NaN")
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return nan
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of each distinct value
    total = float(ranks[inverse][positive].sum())
    return (total - ones * (ones + 1) / 2) / (ones * zeros)


def resampled_rate(
    hits: ArrayLike, judged: ArrayLike, draws: int, generator: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Rates over groups drawn with replacement.

    Args:
        hits: `[groups]`, hits in each group.
        judged: `[groups]`, scored answers in each group.
        draws: how many times all groups are drawn anew.
        generator: source of chance.

    Returns:
        `[draws]`, NaN where a draw holds no scored answer.
    """
    table = np.stack([np.asarray(hits, np.float64), np.asarray(judged, np.float64)], axis=1)
    groups = len(table)
    picks = generator.multinomial(groups, np.full(groups, 1 / groups), size=draws)
    sums = picks @ table  # [draws, 2]
    rates = np.full(draws, nan)
    np.divide(sums[:, 0], sums[:, 1], out=rates, where=sums[:, 1] > 0)
    return rates

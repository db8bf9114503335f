"""Effects whose neuron sets and training seeds are drawn as well as their prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan

import numpy as np
from numpy.typing import NDArray

from precise_shield.evaluate.counting.measures import Outcomes

Array = NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class Crossed:
    """Mean rate of some runs minus that of others, with everything drawn that was drawn."""

    difference: float
    low: float
    high: float
    """95 % interval; NaN below two groups. A side with a single run adds no spread of its own, and
    few runs add too little: read it with `runs` and `controls`."""

    runs: int
    controls: int
    groups: int
    n: int
    """Scored answers on both sides."""

    unscored: int
    p_value: float = nan
    """Two-sided, from the same draws: twice the smaller share of them on one side of zero."""


def crossed_difference(
    effect: Sequence[Outcomes],
    control: Sequence[Outcomes],
    groups: Mapping[str, str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Crossed:
    """Compare runs of an effect with runs of its control on the same prompts.

    Each draw takes parallel groups with replacement, the same for both sides, and runs (neuron
    sets, training seeds) with replacement on each side.

    Args:
        effect: for each run, outcome by example id; None is unscored.
        control: the same for the control's runs.
        groups: parallel group of each example.
        draws: bootstrap draws.
        seed: of the draws.

    Source: Owen (2007), "The pigeonhole bootstrap", Annals of Applied Statistics 1, 386-411:
        crossed random factors, each resampled by itself; its variance is never too small on
        average for many levels.
    """
    names = sorted({groups[key] for column in (*effect, *control) for key in column})
    order = {name: i for i, name in enumerate(names)}
    tables = [_table(side, groups, order) for side in (effect, control)]
    unscored = sum(list(column.values()).count(None) for column in (*effect, *control))
    n = int(sum(table[..., 1].sum() for table in tables))
    value = float(np.subtract(*(_rate(table.sum((0, 1))) for table in tables)))
    empty = Crossed(value, nan, nan, len(effect), len(control), len(names), n, unscored)
    if len(names) < 2 or value != value:
        return empty
    rng = np.random.default_rng(seed)
    picked = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    sides = []
    for table in tables:
        runs = len(table)
        taken = rng.multinomial(runs, np.full(runs, 1 / runs), size=draws)
        sides.append(_rate(np.einsum("dr,dg,rgc->dc", taken, picked, table, optimize=True)))
    spread = sides[0] - sides[1]
    spread = spread[~np.isnan(spread)]
    if not spread.size:
        return empty
    low, high = map(float, np.quantile(spread, [0.025, 0.975]))
    rarer = min((spread <= 0).sum(), (spread >= 0).sum())
    p_value = min(1.0, 2 * (1 + float(rarer)) / (1 + len(spread)))
    return replace(empty, low=low, high=high, p_value=p_value)


def _table(side: Sequence[Outcomes], groups: Mapping[str, str], order: Mapping[str, int]) -> Array:
    """`[runs, groups, 2]`: hits and scored answers."""
    table = np.zeros((len(side), len(order), 2))
    for run, column in enumerate(side):
        for key, hit in column.items():
            if hit is not None:
                table[run, order[groups[key]]] += (hit, 1)
    return table


def _rate(sums: Array) -> Array:
    """`[..., 2]` -> `[...]`; NaN without a scored answer."""
    rates = np.full(sums.shape[:-1], nan)
    np.divide(sums[..., 0], sums[..., 1], out=rates, where=sums[..., 1] > 0)
    return rates

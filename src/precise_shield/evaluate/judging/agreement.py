"""Do judges agree beyond chance, and how sure is that when translations are not independent?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import ArrayLike, NDArray

from precise_shield.core.rates import Rate

Array = NDArray[np.float64]
DRAWS = 1000


@dataclass(frozen=True)
class Agreement:
    """Agreement of two or more judges on the same answers."""

    n: int
    """Answers that all of them judged."""

    observed: float
    """Share of pairs of judges that say the same; NaN without answers."""

    kappa: float
    """Agreement beyond chance, at most 1; NaN where all say one and the same thing."""

    low: float
    high: float
    """95 % interval from resampling parallel groups, NaN below two groups; where all agree, the
    lower end is that of Wilson's interval of agreement over the groups."""


def cohen_kappa(table: ArrayLike) -> float:
    """Agreement of two judges beyond chance.

    Args:
        table: `[categories, categories]`, how often the first said i and the second j.

    Source: Cohen (1960), "A coefficient of agreement for nominal scales", Educational and
        Psychological Measurement 20, 37-46.
    """
    return float(_cohen(np.asarray(table, np.float64)[None])[0])


def _cohen(tables: Array) -> Array:
    """`[draws, categories, categories]` -> `[draws]`."""
    total = tables.sum((1, 2))
    observed = np.einsum("dii->d", tables)
    expected = (tables.sum(2) * tables.sum(1)).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = expected / total
        kappas = (observed - chance) / (total - chance)
    kappas[~np.isfinite(kappas)] = nan
    return np.asarray(kappas)


def fleiss_kappa(counts: ArrayLike) -> float:
    """Agreement of several judges beyond chance.

    Args:
        counts: `[answers, categories]`, how many judges put an answer into a category; each row
            sums to the number of judges.

    Raises:
        ValueError: rows have different sums, or fewer than two judges.
    Source: Fleiss (1971), "Measuring nominal scale agreement among many raters",
        Psychological Bulletin 76, 378-382.
    """
    table = np.asarray(counts, np.float64)
    judges = set(table.sum(1).tolist())
    if len(judges) > 1 or (judges and min(judges) < 2):
        raise ValueError(f"every answer needs the same two or more judges, not {sorted(judges)}")
    if not len(table):
        return nan
    return float(_fleiss(*_fleiss_sums(table, [0] * len(table)))[0])


def _fleiss_sums(table: Array, groups: Sequence[int]) -> tuple[Array, Array]:
    """Sums over groups of what kappa needs: `[groups, 2]` (answers, agreement), `[groups, c]`."""
    raters = table.sum(1)
    agreement = (table * (table - 1)).sum(1) / (raters * (raters - 1))
    size = max(groups) + 1
    parts = np.zeros((size, 2))
    np.add.at(parts, list(groups), np.stack([np.ones(len(table)), agreement], 1))
    categories = np.zeros((size, table.shape[1]))
    np.add.at(categories, list(groups), table)
    return parts, categories


def _fleiss(parts: Array, categories: Array) -> Array:
    """`[draws, 2]` and `[draws, categories]` -> `[draws]`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = parts[:, 1] / parts[:, 0]
        shares = categories / categories.sum(1, keepdims=True)
        chance = (shares**2).sum(1)
        kappas = (observed - chance) / (1 - chance)
    kappas[~np.isfinite(kappas) | (chance > 1 - 1e-12)] = nan
    return np.asarray(kappas)


def agreement(
    said: Sequence[Mapping[str, str]],
    groups: Mapping[str, str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Agreement:
    """Cohen's kappa of two judges, Fleiss' of more, over the answers that all of them judged.

    Args:
        said: for each judge, category by answer.
        groups: parallel group of each answer: what is resampled.
        draws: bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: fewer than two judges.
    """
    if len(said) < 2:
        raise ValueError("agreement is between two judges or more")
    keys = sorted(set.intersection(*(set(each) for each in said)))
    if not keys:
        return Agreement(0, nan, nan, nan, nan)
    names = sorted({each[key] for each in said for key in keys})
    place = {name: i for i, name in enumerate(names)}
    order = {name: i for i, name in enumerate(sorted({groups[key] for key in keys}))}
    where = [order[groups[key]] for key in keys]
    rows = np.array([[place[each[key]] for each in said] for key in keys])  # [answers, judges]
    counts = np.stack([(rows == i).sum(1) for i in range(len(names))], 1).astype(np.float64)
    parts, categories = _fleiss_sums(counts, where)
    observed = float(parts[:, 1].sum() / parts[:, 0].sum())
    rng = np.random.default_rng(seed)
    picks = rng.multinomial(len(order), np.full(len(order), 1 / len(order)), size=draws)
    if len(said) == 2:
        tables = np.zeros((len(order), len(names) ** 2))
        np.add.at(tables, (where, rows[:, 0] * len(names) + rows[:, 1]), 1)
        shape = (-1, len(names), len(names))
        value = float(_cohen(tables.sum(0).reshape(shape))[0])
        drawn = _cohen((picks @ tables).reshape(shape))
    else:
        value = float(_fleiss(parts.sum(0)[None], categories.sum(0)[None])[0])
        drawn = _fleiss(picks @ parts, picks @ categories)
    drawn = drawn[np.isfinite(drawn)]
    if len(order) < 2 or not drawn.size or value != value:
        return Agreement(len(keys), observed, value, nan, nan)
    low, high = np.quantile(drawn, [0.025, 0.975])
    if observed == 1:  # no draw differs; agreement over the groups is not certain
        least, chance = Rate(len(order), len(order)).interval()[0], _chance(categories)
        low = (least - chance) / (1 - chance)
    return Agreement(len(keys), observed, value, float(low), float(high))


def _chance(categories: Array) -> float:
    """Agreement of judges who draw from the same `[groups, categories]` answers at random."""
    shares = categories.sum(0) / categories.sum()
    return float((shares**2).sum())

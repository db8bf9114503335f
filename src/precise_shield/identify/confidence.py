"""How sure a set is under other draws of the data, and under other scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from precise_shield.core.masks import Masks, mean_where_known
from precise_shield.core.ranking import spearman
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.identify.scores import SCORES
from precise_shield.identify.select import (
    Contrast,
    Draws,
    Place,
    Selection,
    arms,
    contrast,
    whole,
)
from precise_shield.identify.stats import Stats

BLOCK_BYTES = 2**28
"""Draws are taken in blocks whose masks take about this much memory."""

CORE = 0.9
"""A neuron that at least this share of draws chooses belongs to the core of its set."""


@dataclass
class Sureness:
    """What bootstrap draws say of one set.

    Shapes: `inclusion[site]` is `[units of the set]`, in order of unit: the share of draws that
    choose each. `jaccard` is `[draws]`, NaN where the draw's set and the set are both empty.
    """

    jaccard: Float[Tensor, " draws"]
    inclusion: dict[Site, Float[Tensor, " units"]] = field(default_factory=dict)

    @property
    def mean_inclusion(self) -> float:
        """Mean over the set's neurons; NaN for an empty set."""
        every = [share for shares in self.inclusion.values() for share in shares.tolist()]
        return sum(every) / len(every) if every else float("nan")

    @property
    def core(self) -> int:
        """Neurons that nearly every draw chooses."""
        return sum(int((share >= CORE).sum()) for share in self.inclusion.values())


def spread(values: Float[Tensor, " draws"]) -> tuple[float, float, float]:
    """Mean and the middle 95 % of the draws that have a value; NaN when none has."""
    finite = values[values.isfinite()].double()
    if not len(finite):
        return (float("nan"),) * 3
    low, high = torch.quantile(finite, torch.tensor([0.025, 0.975]).double()).tolist()
    return mean_where_known(finite), low, high


def usable(
    stats: Stats, places: Sequence[Place], choice: Selection, draws: Draws
) -> Bool[Tensor, " draws"]:
    """Draws in which each arm of every place has at least one row.

    With few groups a draw can miss all of them; what it would select means nothing.
    """
    site = next(iter(stats.norms))
    good = torch.ones(len(draws.harmful), dtype=torch.bool)
    for place in places:
        good &= Contrast.of_place(place).filled(stats, site, choice, draws)
    return good


def blocks(draws: Draws, keep: Bool[Tensor, " draws"], size: int) -> Iterator[Draws]:
    """The kept draws, at most `size` at a time."""
    for part in torch.split(keep.nonzero().flatten(), size):
        yield Draws(draws.harmful[part], draws.benign[part])


def block_size(stats: Stats, places: int) -> int:
    """How many draws of every place's masks fit the block's memory."""
    units = sum(len(norms) for norms in stats.norms.values())
    return max(1, BLOCK_BYTES // max(1, 4 * units * places))


def sureness(
    sets: Mapping[str, NeuronSet], parts: Iterator[Mapping[str, Masks]]
) -> dict[str, Sureness]:
    """Compare each set with the same set under draws, given block by block.

    Memory is that of one block, however many draws there are.
    """
    hits: dict[str, dict[Site, Tensor]] = {name: {} for name in sets}
    jaccards: dict[str, list[Tensor]] = {name: [] for name in sets}
    total = 0
    for drawn in parts:
        total += len(next(iter(drawn.values())).sizes())
        for name, neurons in sets.items():
            mask, shared = drawn[name], torch.zeros(1, dtype=torch.float64)
            for site, ids in neurons.units.items():
                chosen = mask.values[site][:, list(ids)]
                old = hits[name].get(site, 0)
                hits[name][site] = old + chosen.sum(0).double()
                shared = shared + chosen.sum(1).double()
            sizes = mask.sizes()
            jaccards[name].append(shared / (sizes + len(neurons) - shared))
    return {
        name: Sureness(
            torch.cat(jaccards[name]) if jaccards[name] else torch.zeros(0),
            {site: hit / total for site, hit in hits[name].items()},
        )
        for name in sets
    }


def size_p_value(size: int, shuffled: Float[Tensor, " draws"]) -> float:
    """(1 + #{shuffled size >= size}) / (1 + draws): would labels without meaning give as many?

    NaN without draws.
    """
    beaten = int((shuffled >= size).sum())
    return (1 + beaten) / (1 + len(shuffled)) if len(shuffled) else float("nan")


@dataclass(frozen=True)
class Pair:
    """Two scores compared in one cell or, averaged, in many."""

    jaccard: float
    chance: float
    rank: float


def agreement(
    stats: Stats, places: Sequence[Place], choice: Selection, names: Sequence[str]
) -> dict[tuple[str, str], list[Pair]]:
    """Every pair of scores, cell by cell: do they choose and rank alike?

    A score of one arm ranks by its value for harmful minus its value for benign inputs.
    """
    widths = {site: len(norms) for site, norms in stats.norms.items()}
    found: dict[tuple[str, str], list[Pair]] = {pair: [] for pair in combinations(names, 2)}
    for place in places:
        chosen = {name: contrast(stats, place, choice.by(name)).draw(0) for name in names}
        ranks = _rank_correlations(stats, place, choice, names)
        for (i, a), (j, b) in combinations(enumerate(names), 2):
            one, two = chosen[a], chosen[b]
            chance = expected_jaccard(one, two, widths)
            found[a, b].append(Pair(one.jaccard(two), chance, float(ranks[i, j])))
    return found


def expected_jaccard(a: NeuronSet, b: NeuronSet, widths: Mapping[Site, int]) -> float:
    """Jaccard of random sets with as many neurons a layer, from the expected overlap."""
    hits = sum(
        len(ids) * len(b.units.get(site, ())) / widths[site] for site, ids in a.units.items()
    )
    union = len(a) + len(b) - hits
    return hits / union if union else float("nan")


def _rank_correlations(
    stats: Stats, place: Place, choice: Selection, names: Sequence[str]
) -> Float[Tensor, "names names"]:
    """Mean over layers of the correlation matrix; a layer in which one is undefined is left out."""
    tables = []
    for site, norms in stats.norms.items():
        rows = []
        for name in names:
            score = SCORES[name]
            one, two = arms(stats, site, place, choice.by(name), whole())
            value = score.compute(one, two, norms)
            if score.kind == "single":
                value = value - score.compute(two, one, norms)
            rows.append(value[0].double())
        tables.append(spearman(torch.stack(rows)))
    return torch.stack(tables).nanmean(0)

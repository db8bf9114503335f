"""Where in depth the neurons sit, what is private to a cell, and which cells are near."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from precise_shield.analyse.permutation import group_difference
from precise_shield.core.masks import Masks, mean_where_known
from precise_shield.core.rates import or_null
from precise_shield.core.records import Modality
from precise_shield.core.sites import NeuronSet, Site, UnitKind
from precise_shield.core.summary import Overlap
from precise_shield.core.summary.explained import (
    Decomposition,
    DepthRow,
    Group,
    GroupTest,
    Nearest,
    Neighbour,
    Profile,
)

Place = tuple[str, Modality]
NEIGHBOURS = 3
"""How many near sets are named."""


def profile(
    places: Sequence[Place],
    sets: Mapping[str, NeuronSet],
    widths: Mapping[Site, int],
    shuffled: Mapping[str, Masks],
    overlaps: Sequence[Overlap],
    high_resource: Iterable[str],
) -> Profile:
    """Everything about the cells' sets that needs no model.

    Args:
        places: languages and modalities; the set of a place is named `language/modality`.
        sets: by name.
        widths: units of every site that was searched; where both towers were, the language
            model's alone are profiled.
        shuffled: the same sets under shuffled labels.
        overlaps: directed overlaps between sets, each with its chance level.
        high_resource: languages that count as such.
    """
    high = set(high_resource)
    modalities = sorted({modality for _, modality in places})
    members = {m: sorted(la for la, where in places if where == m) for m in modalities}
    rows, tests = [], []
    tower = min(site.tower for site in widths)  # layers of two towers have no common depth
    widths = {site: width for site, width in widths.items() if site.tower == tower}
    sets = {name: _within(one, widths) for name, one in sets.items()}
    shuffled = {
        name: Masks({site: one.values[site] for site in widths}) for name, one in shuffled.items()
    }
    for kind in sorted({site.kind for site in widths}):
        for modality in modalities:
            names = {la: f"{la}/{modality}" for la in members[modality]}
            rows += _depth(kind, modality, names, sets, widths, shuffled, high)
            tests.append(_groups(kind, modality, names, sets, high))
    return Profile(
        depth=rows,
        groups=tests,
        decompositions=[_decomposed(place, places, sets, widths, shuffled) for place in places],
        nearest=nearest([f"{la}/{modality}" for la, modality in places], overlaps),
    )


def _within(neurons: NeuronSet, widths: Mapping[Site, int]) -> NeuronSet:
    return NeuronSet.of({site: ids for site, ids in neurons.units.items() if site in widths})


def by_layer(neurons: NeuronSet, widths: Mapping[Site, int], kind: UnitKind) -> dict[int, int]:
    """Neurons of one unit kind in every searched layer, experts of a layer added up."""
    counts = {site.layer: 0 for site in sorted(widths) if site.kind == kind}
    for site, size in neurons.counts().items():
        if site.kind == kind:
            counts[site.layer] += size
    return counts


def _shuffled_by_layer(drawn: Masks, kind: UnitKind) -> dict[int, float]:
    counts: dict[int, float] = {}
    for site, mask in drawn.values.items():
        if site.kind == kind:
            mean = float(mask.sum(1).double().mean())
            counts[site.layer] = counts.get(site.layer, 0.0) + mean
    return counts


def _depth(
    kind: UnitKind,
    modality: Modality,
    names: Mapping[str, str],
    sets: Mapping[str, NeuronSet],
    widths: Mapping[Site, int],
    shuffled: Mapping[str, Masks],
    high: set[str],
) -> list[DepthRow]:
    """One row a group of languages; a group without languages has none."""
    rows = []
    groups: tuple[tuple[Group, bool], ...] = (("high_resource", True), ("other", False))
    for group, inside in groups:
        languages = [la for la in names if (la in high) == inside]
        if not languages:
            continue
        found = [by_layer(sets[names[la]], widths, kind) for la in languages]
        drawn = [_shuffled_by_layer(shuffled[names[la]], kind) for la in languages]
        layers = sorted(found[0])
        rows.append(
            DepthRow(
                kind=kind,
                modality=modality,
                group=group,
                languages=languages,
                layers=layers,
                by_language=[[one[k] for k in layers] for one in found],
                counts=[round(_mean([one[k] for one in found]), 6) for k in layers],
                shuffled=[or_null(_mean([one[k] for one in drawn])) for k in layers],
            )
        )
    return rows


def _mean(values: Sequence[int | float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _groups(
    kind: UnitKind,
    modality: Modality,
    names: Mapping[str, str],
    sets: Mapping[str, NeuronSet],
    high: set[str],
) -> GroupTest:
    sizes = [
        sum(n for site, n in sets[name].counts().items() if site.kind == kind)
        for name in names.values()
    ]
    difference, p, ways = group_difference(sizes, [la in high for la in names])
    return GroupTest(
        kind=kind,
        modality=modality,
        difference=or_null(difference),
        p_value=or_null(p),
        relabellings=ways,
    )


def _decomposed(
    place: Place,
    places: Sequence[Place],
    sets: Mapping[str, NeuronSet],
    widths: Mapping[Site, int],
    shuffled: Mapping[str, Masks],
) -> Decomposition:
    """Shared and private parts of one cell, each beside both chance levels."""
    language, modality = place
    name = f"{language}/{modality}"
    others = [f"{la}/{mo}" for la, mo in places if mo == modality and la != language]
    elsewhere = [f"{la}/{mo}" for la, mo in places if la == language and mo != modality]
    mine = sets[name]
    having = shared_by(mine, [sets[other] for other in others])
    size = len(mine)
    none, everyone = _expected(mine, [sets[other] for other in others], widths)
    drawn = _drawn_parts(shuffled[name], [shuffled[other] for other in others])
    elsewhere_share = mine.share_of(NeuronSet.union(sets[other] for other in elsewhere))
    alone = not others  # with one language nothing is private, and nothing is shared
    nan = float("nan")
    return Decomposition(
        name=name,
        size=size,
        by_languages=having,
        private=or_null(nan if alone or not size else having[0] / size),
        private_random=or_null(nan if alone else none),
        private_shuffled=or_null(nan if alone else drawn[0]),
        everywhere=or_null(nan if alone or not size else having[-1] / size),
        everywhere_random=or_null(nan if alone else everyone),
        everywhere_shuffled=or_null(nan if alone else drawn[1]),
        other_modalities=or_null(elsewhere_share if elsewhere else nan),
    )


def shared_by(mine: NeuronSet, others: Sequence[NeuronSet]) -> list[int]:
    """How many neurons of `mine` lie in exactly 0, 1, … of `others`; `[len(others) + 1]`."""
    counts = [0] * (len(others) + 1)
    for site, ids in mine.units.items():
        there = [set(other.units.get(site, ())) for other in others]
        for unit in ids:
            counts[sum(unit in units for units in there)] += 1
    return counts


def _expected(
    mine: NeuronSet, others: Sequence[NeuronSet], widths: Mapping[Site, int]
) -> tuple[float, float]:
    """Shares of `mine` in none and in all of `others`, were those random within each site."""
    none = everyone = 0.0
    for site, ids in mine.units.items():
        here, nowhere = float(len(ids)), float(len(ids))
        for other in others:
            taken = len(other.units.get(site, ())) / widths[site]
            here, nowhere = here * taken, nowhere * (1 - taken)
        none, everyone = none + nowhere, everyone + here
    return (none / len(mine), everyone / len(mine)) if mine else (float("nan"), float("nan"))


def _drawn_parts(mine: Masks, others: Sequence[Masks]) -> tuple[float, float]:
    """Private and universal shares when all labels are shuffled, means over the draws."""
    sizes = mine.sizes()
    alone, everyone = torch.zeros_like(sizes), torch.zeros_like(sizes)
    for site, mask in mine.values.items():
        having = torch.zeros(mask.shape, dtype=torch.int16)
        for other in others:
            having += other.values[site]
        alone += (mask & (having == 0)).sum(1)
        everyone += (mask & (having == len(others))).sum(1)
    return mean_where_known(alone / sizes), mean_where_known(everyone / sizes)


def nearest(names: Sequence[str], overlaps: Sequence[Overlap]) -> list[Nearest]:
    """For each named set, the other languages' sets that hold most of it beyond chance."""
    found = []
    for name in names:
        near = [
            Neighbour(
                name=each.b,
                share=each.share,
                chance=chance,
                beyond=round(each.share - chance, 6),
            )
            for each in overlaps
            if each.a == name
            and each.b.partition("/")[2] == name.partition("/")[2]
            and each.share is not None
            and (chance := _chance(each)) is not None
        ]
        near.sort(key=lambda each: (-each.beyond, each.name))
        if near:
            found.append(Nearest(name=name, neighbours=near[:NEIGHBOURS]))
    return found


def _chance(overlap: Overlap) -> float | None:
    """Shuffled labels where they gave any set, else layer-matched random sets."""
    if overlap.chance_shuffled is not None:
        return overlap.chance_shuffled
    return overlap.chance_random

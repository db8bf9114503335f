"""What languages and modalities share, beside what they would share by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.masks import Masks
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.summary import Overlap


def expected_share(a: NeuronSet, b: NeuronSet, widths: Mapping[Site, int]) -> float:
    """Share of A in B if B were drawn at random within each layer; NaN when A is empty."""
    hits = sum(
        len(ids) * len(b.units.get(site, ())) / widths[site] for site, ids in a.units.items()
    )
    return hits / len(a) if a else float("nan")


@dataclass(frozen=True)
class Null:
    """What a family of sets is judged against."""

    shuffled: Mapping[str, Masks]
    """Each set under shuffled labels."""

    halves: tuple[Mapping[str, Masks], Mapping[str, Masks]]
    """Each set on either half of the groups."""


def overlaps(
    names: Sequence[str], sets: Mapping[str, NeuronSet], widths: Mapping[Site, int], null: Null
) -> list[Overlap]:
    """Directed share |A ∩ B| / |A| of every ordered pair, with its chance level and ceiling.

    `chance_shuffled` is the share of A in the sets that B's shuffled labels give, scaled to
    B's size (a shuffled contrast leaves fewer neurons); the p-value compares the observed share
    with the same scaled draws. The ceiling is the share of A that A itself shows again on
    the other half of the groups.

    Source: Precise Shield (arXiv 2604.08881), Fig. 4 (the share); chance and ceiling are ours.
    """
    flat = {name: Masks.constant(sets[name], widths).flat() for name in names}
    ceilings = {name: _mean(null.halves[0][name].share_of(null.halves[1][name])) for name in names}
    everything = torch.cat(list(flat.values()))  # [names, units]
    rows = []
    for b in names:
        drawn = null.shuffled[b].flat()
        hits = everything @ drawn.T  # [names, draws]
        scale = len(sets[b]) / drawn.sum(1)
        for i, a in enumerate(names):
            if a != b:
                chance = (hits[i] / len(sets[a]) * scale).clamp(max=1.0) if sets[a] else hits[i] / 0
                rows.append(_overlap(a, b, sets, widths, chance, ceilings[a]))
    return sorted(rows, key=lambda row: (names.index(row.a), names.index(row.b)))


def _overlap(
    name_a: str,
    name_b: str,
    sets: Mapping[str, NeuronSet],
    widths: Mapping[Site, int],
    chance: Float[Tensor, " draws"],
    ceiling: float,
) -> Overlap:
    a, b = sets[name_a], sets[name_b]
    share = a.share_of(b)
    known = chance[chance.isfinite()]
    beaten = int((known >= share - 1e-9).sum())
    return Overlap(
        a=name_a,
        b=name_b,
        shared=len(a & b),
        share=_known(share),
        jaccard=_known(a.jaccard(b)),
        chance_random=_known(expected_share(a, b, widths)),
        chance_shuffled=_known(_mean(known)),
        p_value=(1 + beaten) / (1 + len(known)) if a and len(known) else None,
        ceiling=_known(ceiling),
    )


def _mean(values: Float[Tensor, " draws"]) -> float:
    known = values[values.isfinite()]
    return float(known.mean()) if len(known) else float("nan")


def _known(value: float) -> float | None:
    return None if value != value else round(value, 6)

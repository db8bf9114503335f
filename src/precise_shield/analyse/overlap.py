"""What languages and modalities share, beside what they would share by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.masks import Masks, mean_where_known
from precise_shield.core.rates import or_null
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.summary import Overlap, Sharing


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
    ceilings = {
        name: mean_where_known(null.halves[0][name].share_of(null.halves[1][name]))
        for name in names
    }
    chances = _chances(names, sets, widths, null)
    return [_overlap(a, b, sets, widths, chance, ceilings[a]) for (a, b), chance in chances.items()]


def sharing(
    across: Literal["languages", "modalities"],
    families: Sequence[Sequence[str]],
    sets: Mapping[str, NeuronSet],
    widths: Mapping[Site, int],
    null: Null,
    at_last_prompt: Mapping[str, NeuronSet] | None = None,
) -> Sharing:
    """One test over every ordered pair within each family: is their mean share above chance?

    `at_last_prompt` are the same sets at the last of the user's own words: their mean share stands
    beside. Pairs with an empty first set, and pairs of a draw whose shuffled set is empty, are left
    out of the means.
    """
    observed: list[float] = []
    drawn: list[Tensor] = []
    for names in families:
        for (a, b), chance in _chances(names, sets, widths, null).items():
            if sets[a]:
                observed.append(sets[a].share_of(sets[b]))
                drawn.append(chance)
    if not observed:
        return Sharing(across=across, pairs=0, share=None, chance_shuffled=None, p_value=None)
    share = sum(observed) / len(observed)
    means = torch.stack(drawn).double()  # [pairs, draws]
    means = means.masked_fill(~means.isfinite(), float("nan")).nanmean(0)
    known = means[means.isfinite()]
    beaten = int((known >= share - 1e-9).sum())
    return Sharing(
        across=across,
        pairs=len(observed),
        share=or_null(share),
        chance_shuffled=or_null(mean_where_known(known)),
        p_value=(1 + beaten) / (1 + len(known)) if len(known) else None,
        share_at_last_prompt=or_null(_mean_share(families, at_last_prompt or {})),
    )


def _mean_share(families: Sequence[Sequence[str]], sets: Mapping[str, NeuronSet]) -> float:
    """Mean directed share over the ordered pairs within each family; NaN where there are none."""
    shares = [
        sets[a].share_of(sets[b])
        for names in families
        for a, b in permutations(names, 2)
        if b in sets and sets.get(a)
    ]
    return sum(shares) / len(shares) if shares else float("nan")


def _chances(
    names: Sequence[str], sets: Mapping[str, NeuronSet], widths: Mapping[Site, int], null: Null
) -> dict[tuple[str, str], Float[Tensor, " draws"]]:
    """For each ordered pair, the scaled share of A in B's shuffled sets; not finite when empty."""
    everything = torch.cat([Masks.constant(sets[name], widths).flat() for name in names])
    found: dict[tuple[str, str], Tensor] = {}
    for b in names:
        drawn = null.shuffled[b].flat()
        hits = everything @ drawn.T  # [names, draws]
        scale = len(sets[b]) / drawn.sum(1)
        for i, a in enumerate(names):
            size = len(sets[a]) if sets[a] else float("nan")
            found[a, b] = (hits[i] / size * scale).clamp(max=1.0)
    return {(a, b): found[a, b] for a in names for b in names if a != b}


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
        share=or_null(share),
        jaccard=or_null(a.jaccard(b)),
        chance_random=or_null(expected_share(a, b, widths)),
        chance_shuffled=or_null(mean_where_known(known)),
        p_value=(1 + beaten) / (1 + len(known)) if a and len(known) else None,
        ceiling=or_null(ceiling),
    )

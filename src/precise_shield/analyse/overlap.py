"""What languages and modalities share, beside what they would share by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def overlap(
    name_a: str,
    name_b: str,
    sets: Mapping[str, NeuronSet],
    widths: Mapping[Site, int],
    shuffled: Mapping[str, Masks],
    halves: tuple[Mapping[str, Masks], Mapping[str, Masks]],
) -> Overlap:
    """Directed share |A ∩ B| / |A| with its chance level and its ceiling.

    `chance_shuffled` is the share of A in the sets that B's shuffled labels give, scaled to
    B's size where those sets are smaller (a shuffled contrast leaves fewer neurons); the p-value
    compares the observed share with the same scaled draws. The ceiling is the share of A
    that A itself shows again on the other half of the groups.

    Source: Precise Shield (arXiv 2604.08881), Fig. 4 (the share); chance and ceiling are ours.
    """
    a, b = sets[name_a], sets[name_b]
    shared = len(a & b)
    share = a.share_of(b)
    chance = _scaled_chance(a, len(b), shuffled[name_b], widths)
    known = chance[~chance.isnan()]
    beaten = int((known >= share).sum())
    ceiling = halves[0][name_a].share_of(halves[1][name_a])
    return Overlap(
        a=name_a,
        b=name_b,
        shared=shared,
        share=_known(share),
        jaccard=_known(a.jaccard(b)),
        chance_random=_known(expected_share(a, b, widths)),
        chance_shuffled=_known(_mean(chance)),
        p_value=(1 + beaten) / (1 + len(known)) if a and len(known) else None,
        ceiling=_known(_mean(ceiling)),
    )


def _scaled_chance(
    a: NeuronSet, size: int, drawn: Masks, widths: Mapping[Site, int]
) -> Float[Tensor, " draws"]:
    """Share of A in each shuffled draw, as if it held `size` neurons; NaN when it is empty."""
    if not a:
        return torch.full_like(drawn.sizes(), float("nan"))
    hits = (Masks.constant(a, widths) & drawn).sizes()
    return (hits / len(a) * (size / drawn.sizes())).clamp(max=1.0)


def overlaps(names: Sequence[str], **given: object) -> list[Overlap]:
    """Every ordered pair of different names."""
    pairs = [(a, b) for a in names for b in names if a != b]
    return [overlap(a, b, **given) for a, b in pairs]  # type: ignore[arg-type]


def _mean(values: Float[Tensor, " draws"]) -> float:
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else float("nan")


def _known(value: float) -> float | None:
    return None if value != value else round(value, 6)

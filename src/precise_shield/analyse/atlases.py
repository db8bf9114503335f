"""Two atlases of one architecture beside each other: two models, two data sets, two scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from precise_shield.analyse.overlap import expected_share
from precise_shield.core.atlas import Atlas
from precise_shield.core.errors import LayoutMismatchError
from precise_shield.core.ranking import spearman


@dataclass(frozen=True)
class Compared:
    """One set in two atlases. A share is NaN where it is undefined."""

    name: str
    a: int
    b: int
    """Sizes."""

    shared: int
    share: float
    """|A ∩ B| / |A|."""

    jaccard: float
    chance: float
    """The share, for random sets with as many neurons in each layer."""

    rank: float
    """Spearman's correlation of the two scores over a layer's units, mean over layers; NaN for a
    set that is no single language and modality."""


def compare(a: Atlas, b: Atlas) -> list[Compared]:
    """Every set that both atlases name.

    Raises:
        LayoutMismatchError: the atlases are of models of different shape.
    """
    if a.widths != b.widths:
        apart = sorted(str(site) for site, _ in set(a.widths.items()) ^ set(b.widths.items()))
        raise LayoutMismatchError(
            f"the atlases are of different architectures: {len(apart)} entries of their widths"
            f" differ, the first {apart[0]}. Only neurons of the same shape can be compared."
        )
    return [_compared(a, b, name) for name in a.sets if name in b.sets]


def _compared(a: Atlas, b: Atlas, name: str) -> Compared:
    one, two = a.sets[name], b.sets[name]
    return Compared(
        name=name,
        a=len(one),
        b=len(two),
        shared=len(one & two),
        share=one.share_of(two),
        jaccard=one.jaccard(two),
        chance=expected_share(one, two, a.widths),
        rank=_rank(a, b, name),
    )


def _rank(a: Atlas, b: Atlas, name: str) -> float:
    if name not in a.scores or name not in b.scores:
        return float("nan")
    found = [
        spearman(torch.stack([values, b.scores[name][site]]).double())[0, 1]
        for site, values in a.scores[name].items()
    ]
    return float(torch.stack(found).nanmean())

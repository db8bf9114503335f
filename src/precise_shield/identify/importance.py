"""How important each unit is by the score that selected, chosen or not: for controls to equal."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.records import HARMS, Cell
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.identify.contrasts import top_of
from precise_shield.identify.scores import SCORES
from precise_shield.identify.select import Place, Selection
from precise_shield.identify.stats import Stats


def importance(
    stats: Stats, places: Sequence[Place], choice: Selection
) -> dict[Site, Float[Tensor, "width places"]]:
    """Score of the harmful arm, a column a place that has rows at the position.

    Of a `contrast` score it is the difference of the arms itself.

    Source: *Who Bridges Safety?* (arXiv 2608.09095), control neurons of equal importance.

    Raises:
        DataError: a cell of a place was not collected.
    """
    score, found = SCORES[choice.score], {}
    for site, norms in stats.norms.items():
        columns = []
        for place in places:
            harmful, benign = (
                stats.at(site, Cell(*place, harm), choice.position, score.quantity.name)
                for harm in HARMS
            )
            if harmful.count.any() and benign.count.any():
                columns.append(score.compute(harmful.pooled(), benign.pooled(), norms))
        found[site] = torch.stack(columns, dim=1)
    return found


def top_for_harmful(stats: Stats, places: Sequence[Place], choice: Selection) -> NeuronSet:
    """Units in the top p of the harmful arm of any place, whatever they do for benign requests.

    Raises:
        DataError: a cell of a place was not collected.
    """
    scores, chosen = importance(stats, places, choice), {}
    for site, norms in stats.norms.items():
        best = top_of(site, scores[site].T, floor(choice.p * len(norms)))  # [places, width]
        chosen[site] = best.any(0).nonzero().flatten().tolist()
    return NeuronSet.of(chosen)

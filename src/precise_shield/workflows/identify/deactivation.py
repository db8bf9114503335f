"""Compare exact deactivation with its one-pass stand-in, cell by cell."""

from __future__ import annotations

from math import floor, nan

import torch

from precise_shield.core.masks import mean_where_known
from precise_shield.core.ranking import spearman
from precise_shield.core.rates import or_null
from precise_shield.core.records import Cell
from precise_shield.core.summary import LocalAgreement
from precise_shield.identify.scores import EXACT, LOCAL, SCORES
from precise_shield.identify.select import top
from precise_shield.identify.stats import Place, Stats
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.stage import Atlas


def local_agreement(run: Run, atlas: Atlas, stats: Stats) -> list[LocalAgreement]:
    """One row for each cell and exact score that was collected; none where none was."""
    position, site = run.config.identify.position, min(stats.norms)
    local = SCORES[LOCAL].quantity.name
    return [
        _row(stats, Cell(*place, harm), name, run)
        for name in EXACT
        if Place(site, position, SCORES[name].quantity.name) in stats.moments
        and Place(site, position, local) in stats.moments
        for place in atlas.places
        for harm in ("harmful", "benign")
    ]


def _row(stats: Stats, cell: Cell, name: str, run: Run) -> LocalAgreement:
    section = run.config.identify
    ranks, shared, every = {}, [], []
    for site, norms in stats.norms.items():
        rows = []
        for score in (SCORES[name], SCORES[LOCAL]):
            arm = stats.at(site, cell, section.position, score.quantity.name).pooled()
            rows.append(score.compute(arm, arm, norms))
        both = torch.stack(rows)
        every.append(both)
        ranks[str(site)] = float(spearman(both)[0, 1])
        k = floor(section.p * len(norms))
        best = top(both, k)
        shared.append(float((best[0] & best[1]).sum()) / k if k else nan)
    count = stats.at(site, cell, section.position, SCORES[name].quantity.name).count
    return LocalAgreement(
        exact=name,
        language=cell.language,
        modality=cell.modality,
        harm=cell.harm,
        examples=int(count.sum()),
        rank=or_null(mean_where_known(torch.tensor(list(ranks.values())))),
        by_layer={site: or_null(rank) for site, rank in ranks.items()},
        overall=or_null(float(spearman(torch.cat(every, 1))[0, 1])),
        top_shared=or_null(mean_where_known(torch.tensor(shared))),
    )

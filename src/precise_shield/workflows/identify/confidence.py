"""How sure every set of a run is, from its stored statistics alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from precise_shield.core.errors import DataError
from precise_shield.core.masks import Masks
from precise_shield.core.rates import or_null
from precise_shield.core.store import Stage
from precise_shield.core.summary import Confidence, ScoreAgreement, SetConfidence, Spread
from precise_shield.evaluate.counting.statistics import holm
from precise_shield.identify.confidence import (
    Pair,
    Sureness,
    agreement,
    block_size,
    blocks,
    size_p_value,
    spread,
    sureness,
    usable,
)
from precise_shield.identify.scores import SCORES
from precise_shield.identify.select import Place, evaluate
from precise_shield.identify.stability import bootstrap, drawn_sets
from precise_shield.identify.stats import Stats
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.stage import Atlas, selection

Drawn = Mapping[str, Masks]


def confidence(
    run: Run, atlas: Atlas, stats: Stats, shuffled: Drawn, halves: tuple[Drawn, Drawn], stage: Stage
) -> Confidence:
    """Bootstrap, halves, shuffled labels and other scores; inclusion a neuron to `inclusion.json`.

    Args:
        run: its configuration says how many draws.
        atlas: the sets.
        stats: what they were chosen from.
        shuffled: every set under shuffled labels.
        halves: every set on either half of the groups.
        stage: where `inclusion.json` goes.
    """
    section = run.config.identify
    draws = bootstrap(section.bootstrap, run.config.seed)
    good = usable(stats, atlas.places, selection(run), draws)

    def parts() -> Iterator[Drawn]:
        for part in blocks(draws, good, block_size(stats, len(atlas.places))):
            sets = drawn_sets(
                stats,
                atlas.places,
                selection(run),
                section.anchor,
                lambda _, part=part: part,  # type: ignore[misc]
            )
            sets.setdefault(atlas.chosen, evaluate(atlas.chosen, sets))
            yield sets

    sure = sureness(atlas.sets, parts())
    stage.write_json("inclusion.json", _inclusion(sure))
    cells = {f"{language}/{modality}" for language, modality in atlas.places}
    rows = [
        _of_set(name, atlas, sure[name], shuffled[name], halves, cell=name in cells)
        for name in atlas.sets
    ]
    agreeing, skipped = _scores(run, stats, atlas.places)
    return Confidence(
        draws=section.bootstrap,
        used=int(good.sum()),
        used_shuffled=_count(shuffled),
        used_halves=_count(halves[0]),
        position=section.position,
        sets=_corrected(rows),
        scores=agreeing,
        skipped=skipped,
    )


def _count(drawn: Drawn) -> int:
    return len(next(iter(drawn.values())).sizes())


def _of_set(
    name: str,
    atlas: Atlas,
    sure: Sureness,
    shuffled: Masks,
    halves: tuple[Drawn, Drawn],
    cell: bool,
) -> SetConfidence:
    size, sizes = len(atlas.sets[name]), shuffled.sizes()
    return SetConfidence(
        name=name,
        size=size,
        cell=cell,
        bootstrap=_spread(sure.jaccard),
        inclusion=or_null(sure.mean_inclusion),
        core=sure.core,
        halves=_spread(halves[0][name].jaccard(halves[1][name])),
        shuffled_size=_spread(sizes),
        p_value=or_null(size_p_value(size, sizes)),
    )


def _spread(values: torch.Tensor) -> Spread:
    mean, low, high = map(or_null, spread(values))
    return Spread(mean=mean, low=low, high=high)


def _corrected(rows: list[SetConfidence]) -> list[SetConfidence]:
    """Holm's correction over the cells; the sets made of them are no further questions."""
    cells = {row.name: row.p_value for row in rows if row.cell and row.p_value is not None}
    holms = dict(zip(cells, holm(list(cells.values())), strict=True))
    return [
        row.model_copy(update={"p_holm": or_null(holms[row.name])}) if row.name in holms else row
        for row in rows
    ]


def _inclusion(sure: Mapping[str, Sureness]) -> dict[str, object]:
    """Share of draws that choose each neuron, in the order of `neurons.json`."""
    return {
        "schema_version": 1,
        "sets": {
            name: {
                str(site): [round(float(share), 4) for share in shares]
                for site, shares in one.inclusion.items()
            }
            for name, one in sure.items()
        },
    }


def _scores(run: Run, stats: Stats, places: list[Place]) -> tuple[list[ScoreAgreement], list[str]]:
    """Agreement of every pair of scores that the statistics can serve, and the other scores."""
    able, skipped = [], []
    for name in SCORES:
        try:
            agreement(stats, places[:1], selection(run), [name])
            able.append(name)
        except DataError:
            skipped.append(name)
    found = agreement(stats, places, selection(run), able)
    return [_pair(a, b, pairs) for (a, b), pairs in found.items()], skipped


def _pair(a: str, b: str, pairs: list[Pair]) -> ScoreAgreement:
    shared = [pair.jaccard for pair in pairs if pair.jaccard == pair.jaccard]

    def mean(values: list[float]) -> float | None:
        known = [value for value in values if value == value]
        return or_null(sum(known) / len(known)) if known else None

    return ScoreAgreement(
        a=a,
        b=b,
        cells=len(shared),
        jaccard=mean(shared),
        low=or_null(min(shared)) if shared else None,
        high=or_null(max(shared)) if shared else None,
        chance=mean([pair.chance for pair in pairs]),
        rank=mean([pair.rank for pair in pairs]),
    )

"""What a summary says of its data beside counts: repeated requests, openings, results by origin."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from precise_shield.core.rates import or_null
from precise_shield.core.records import Example, Verdict
from precise_shield.core.summary import DataNotes, OriginRate
from precise_shield.evaluate.measures import MEASURES, outcomes, rate_of
from precise_shield.workflows.context import Run
from precise_shield.workflows.evaluate import Evaluation
from precise_shield.workflows.openings import openings

Origin = tuple[str | None, str | None]
"""Source and region."""


def data_notes(run: Run, found: Evaluation) -> DataNotes:
    """Gather them; cheap, from what was read and judged already."""
    return DataNotes(
        overlaps=run.overlaps,
        openings=openings(run),
        origins=origin_rates(found.examples, found.every_verdict(), found.rule),
    )


def origin_rates(
    examples: Sequence[Example], verdicts: Sequence[Verdict], rule: str
) -> list[OriginRate]:
    """Every measure by source and region; none when all prompts have the same origin."""
    origins: dict[str, Origin] = {row.id: (row.source, row.region) for row in examples}
    if len(set(origins.values())) < 2:
        return []
    rows: list[OriginRate] = []
    for measure in MEASURES:
        for condition, table in outcomes(examples, verdicts, measure, rule).items():
            hits: defaultdict[Origin, list[bool | None]] = defaultdict(list)
            for name, hit in table.items():
                hits[origins[name]].append(hit)
            for origin in sorted(hits, key=lambda each: [part or "" for part in each]):
                rate = rate_of(hits[origin])
                low, high = rate.interval()
                rows.append(
                    OriginRate(
                        condition=condition,
                        measure=measure,
                        source=origin[0],
                        region=origin[1],
                        hits=rate.hits,
                        n=rate.judged,
                        unscored=rate.unscored,
                        value=or_null(rate.value),
                        low=or_null(low),
                        high=or_null(high),
                    )
                )
    return rows

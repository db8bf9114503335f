"""Neuron counts against attack success: what explain found beside what evaluate measured."""

from __future__ import annotations

from precise_shield.analyse.counts import count_tests
from precise_shield.core.records import Modality
from precise_shield.core.summary.explained import CountTest
from precise_shield.models.inputs.encoding import lengths
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.evaluate.stage import Evaluation
from precise_shield.workflows.identify.stage import Atlas

DRAWS = 9_999
"""Random orders where there are more languages than can be counted in full."""


def count_against_attacks(run: Run, atlas: Atlas, found: Evaluation) -> list[CountTest]:
    """Correlate the cells' neuron counts with the untouched model's attack success."""
    asr = {
        (row.language, row.modality): row.value
        for row in found.rates
        if (row.condition, row.measure) == ("base", "attack_success")
        and row.language is not None
        and row.modality is not None
        and row.value is not None
    }
    return count_tests(
        {place: len(atlas.sets[f"{place[0]}/{place[1]}"]) for place in atlas.places},
        asr,
        _tokens(run),
        run.config.identify.high_resource,
        draws=DRAWS,
        seed=run.config.seed,
    )


def _tokens(run: Run) -> dict[tuple[str, Modality], float]:
    """Mean tokens of a harmful probing prompt's words, in each language and modality."""
    harmful = [example for example in run.examples("probe") if example.harm == "harmful"]
    counts: dict[tuple[str, Modality], list[int]] = {}
    for example, size in zip(harmful, lengths(run.loaded, harmful), strict=True):
        counts.setdefault((example.language, example.modality), []).append(size)
    return {place: sum(sizes) / len(sizes) for place, sizes in counts.items()}

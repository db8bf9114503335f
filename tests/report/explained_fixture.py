"""The realistic summary with everything that explains its sets."""

from __future__ import annotations

import random
from functools import cache

from precise_shield.analyse.counts import count_tests
from precise_shield.core.records import MODALITIES
from precise_shield.core.summary import Explained, Profile, Summary
from precise_shield.core.summary.explained import (
    Decomposition,
    DepthRow,
    GroupTest,
    Nearest,
    Neighbour,
)
from report.fixture import LANGUAGES, realistic

HIGH = ["en", "zh"]


def _profile(summary: Summary) -> Profile:
    layers = {facts.name: facts.by_layer for facts in summary.neurons.sets}
    depth, groups, parts, near = [], [], [], []
    dice = random.Random(5)
    for modality in MODALITIES:
        for group in ("high_resource", "other"):
            names = [la for la in LANGUAGES if (la in HIGH) == (group == "high_resource")]
            rows = [layers[f"{la}/{modality}"] for la in names]
            depth.append(
                DepthRow(
                    kind="ffn", modality=modality, group=group, languages=names,
                    layers=list(range(len(rows[0]))), by_language=rows,
                    counts=[sum(column) / len(column) for column in zip(*rows, strict=True)],
                    shuffled=[2.0] * len(rows[0]),
                )
            )  # fmt: skip
        groups.append(
            GroupTest(kind="ffn", modality=modality, difference=17.5, p_value=0.022,
                      relabellings=45)
        )  # fmt: skip
        for language in LANGUAGES:
            size = sum(layers[f"{language}/{modality}"])
            private = round(0.2 + 0.2 * dice.random(), 3)
            parts.append(
                Decomposition(
                    name=f"{language}/{modality}", size=size, by_languages=[size] + [0] * 9,
                    private=private, private_random=0.8, private_shuffled=0.6, everywhere=0.25,
                    everywhere_random=0.0, everywhere_shuffled=0.02, other_modalities=0.7,
                )
            )  # fmt: skip
            others = [la for la in LANGUAGES if la != language][:2]
            near.append(
                Nearest(
                    name=f"{language}/{modality}",
                    neighbours=[
                        Neighbour(name=f"{la}/{modality}", share=0.6, chance=0.2, beyond=0.4)
                        for la in others
                    ],
                )
            )
    return Profile(depth=depth, groups=groups, decompositions=parts, nearest=near)


@cache
def explained_summary() -> Summary:
    """`realistic()` with a profile and counts."""
    summary = realistic()
    asr = {
        (row.language, row.modality): row.value
        for row in summary.rates
        if (row.condition, row.measure) == ("base", "attack_success")
        and row.language is not None
        and row.modality is not None
    }
    sizes = {place: sum(f.by_layer) for f in summary.neurons.sets for place in asr
             if f.name == f"{place[0]}/{place[1]}"}  # fmt: skip
    dice = random.Random(6)
    tokens = {place: 10.0 + 9 * asr[place] + 5 * dice.random() for place in asr}
    counts = count_tests(sizes, asr, tokens, HIGH)
    return summary.model_copy(
        update={
            "neurons": summary.neurons.model_copy(update={"profile": _profile(summary)}),
            "explained": Explained(counts=counts),
        }
    )

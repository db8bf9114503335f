"""The realistic summary with everything that explains its sets."""

from __future__ import annotations

import random
from functools import cache

from precise_shield.analyse.counts import count_tests
from precise_shield.core.records import MODALITIES
from precise_shield.core.summary import Explained, Profile, Summary
from precise_shield.core.summary.dynamics import (
    Driver,
    InfluenceFacts,
    TokenWeight,
    Writes,
    WrittenNeuron,
)
from precise_shield.core.summary.explained import (
    Decomposition,
    DepthRow,
    GroupTest,
    Nearest,
    Neighbour,
)
from precise_shield.core.summary.headroom import Headroom, HeadroomRow
from report.fixture import LANGUAGES, SCRIPT, realistic

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


def _probe(condition: str, contrast: str, place: tuple[str, str] | None, top: float) -> HeadroomRow:
    auc = [0.5, *[round(0.5 + (top - 0.5) * k / 8, 3) for k in range(1, 9)]]
    return HeadroomRow(
        condition=condition, position="first_decision", contrast=contrast,
        language=None if place is None else place[0],
        modality=None if place is None else place[1], fitted=64, fitted_on="the same kind",
        harmful=12, benign=6, auc=auc, low=[max(0.0, a - 0.2) for a in auc],
        high=[min(1.0, a + 0.15) for a in auc], shuffled=[0.5] * 9, shuffled_high=[0.72] * 9,
        best_layer=8, p_value=0.01 if top > 0.7 else 0.4,
        verdict="apart" if top > 0.7 else "not shown apart",
    )  # fmt: skip


def _headroom() -> Headroom:
    dice, rows = random.Random(8), []
    for condition, lift in (("base", 0.0), ("aligned", 0.05)):
        for contrast, top in (("matched", 0.8), ("ordinary", 0.93)):
            rows.append(_probe(condition, contrast, None, top + lift))
            for language in LANGUAGES:
                for modality in MODALITIES:
                    here = min(1.0, top + lift - 0.2 * dice.random())
                    rows.append(_probe(condition, contrast, (language, modality), here))
    return Headroom(
        fit_split="probe", split="validation", shrinkage=0.1, draws=99, rows=rows,
        sentence="A linear probe tells harmful from topic-matched benign requests.",
    )  # fmt: skip


def influence_facts(layers: int = 8) -> InfluenceFacts:
    """Influence that fades with distance, a third of it from random neurons."""

    def grid(scale: float) -> list[list[float | None]]:
        return [
            [None if k <= i else round(scale / (k - i), 4) for k in range(layers)]
            for i in range(layers)
        ]

    return InfluenceFacts(
        position="first_decision", prompts=30, layers=list(range(layers)),
        neurons=[3 + k for k in range(layers)], change=grid(-0.3), moved=grid(0.6),
        random_sets=3, random_change=grid(0.02), random_moved=grid(0.2), mean_moved=0.25,
        random_mean_moved=[0.08, 0.09, 0.1],
    )  # fmt: skip


def _writes() -> Writes:
    neuron = WrittenNeuron(
        site="text.5.ffn", unit=17, strength=0.0123, sign=-1,
        tokens=[TokenWeight(token=7, text=SCRIPT, logit=3.5),
                TokenWeight(token=9, text=" cannot", logit=3.1)],
        prompts=[Driver(example="swap+shield:en", language="en", modality="text",
                        harm="harmful", activation=-4.2)],
    )  # fmt: skip
    return Writes(position="first_decision", prompts=240, neurons=[neuron])


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
            "explained": Explained(
                counts=counts, headroom=_headroom(), influence=influence_facts(), writes=_writes()
            ),
        }
    )

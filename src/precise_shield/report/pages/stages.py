"""What one stage found, as the few lines that somebody reads in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.records import Modality
from precise_shield.core.summary import NeuronFacts, RateRow, Verification
from precise_shield.core.summary.confidence import SetConfidence
from precise_shield.core.summary.verification import Readout
from precise_shield.report.numbers.tables import MEASURE_NAMES
from precise_shield.report.numbers.words import (
    language_name,
    modality_name,
    p_text,
    percent,
    small,
    span,
)
from precise_shield.report.pages.terminal import aligned_rows

MORE = "Everything that was measured: the same command with --json; `run` makes a page of it."

Rows = list[list[str]]


def neuron_lines(facts: NeuronFacts) -> list[str]:
    """Sets with their confidence, and what they share beside chance."""
    sure = {each.name: each for each in facts.confidence.sets} if facts.confidence else {}
    head = ["set", "neurons", "halves agree", "redrawn", "if labels are shuffled", "p", "p (Holm)"]
    rows = [head, *(_set(each.name, each.size, sure.get(each.name)) for each in facts.sets)]
    shared = [["mean share across", "pairs", "share", "label-shuffled chance", "p"]]
    for test in facts.sharing:
        figures = [percent(test.share), percent(test.chance_shuffled), p_text(test.p_value)]
        shared.append([test.across, str(test.pairs), *figures])
    said = f"{facts.score} at {facts.position}, p {facts.p:g}; chosen: {facts.chosen}"
    return [said, "", *aligned_rows(rows), "", *aligned_rows(shared), "", MORE]


def causal_lines(found: Verification) -> list[str]:
    """Refusal log-odds with the neurons at zero beside matched random sets, place by place."""
    head = ["language", "modality", "n", "chosen, nats", "random, nats", "p", "p (Holm)"]
    rows = [head, *(_readout(row) for row in found.readouts)]
    if found.refused is not None:
        rows.append(["prompts it begins to refuse", "", *_readout(found.refused)[2:]])
    kl = [f"{name} {small(value)}" for name, value in found.benign_kl.items()]
    drift = [f"Benign KL, nats a token: {', '.join(kl)}."] if kl else []
    return [found.verdict, "", *aligned_rows(rows), "", *drift, MORE]


def rate_lines(rates: Sequence[RateRow]) -> list[str]:
    """Every measure in every condition: pooled, then by modality and by language."""
    head = ["measure", "condition", "language", "modality", "share", "95 %", "n", "unscored"]
    pooled = [row for row in rates if row.language is None or row.modality is None]
    return [*aligned_rows([head, *(_rate(row) for row in pooled)]), "", MORE]


def _set(name: str, size: int, sure: SetConfidence | None) -> list[str]:
    if sure is None:
        return [name, str(size), "", "", "", "", ""]
    redrawn, shuffled = sure.bootstrap, sure.shuffled_size
    low, high = small(redrawn.low), small(redrawn.high)
    return [
        name,
        str(size),
        small(sure.halves.mean),
        small(redrawn.mean) + (f" [{low}, {high}]" if redrawn.mean is not None else ""),
        small(shuffled.mean),
        p_text(sure.p_value),
        p_text(sure.p_holm) if sure.p_holm is not None else "",
    ]


def _readout(row: Readout) -> list[str]:
    random = sum(row.random) / len(row.random) if row.random else None
    return [
        *_place(row.language, row.modality),
        str(row.n),
        f"{row.suppressed - row.base:+.2f}",
        "" if random is None else f"{random - row.base:+.2f}",
        p_text(row.p_value),
        p_text(row.p_holm) if row.p_holm is not None else "",
    ]


def _rate(row: RateRow) -> list[str]:
    return [
        MEASURE_NAMES[row.measure],
        row.condition,
        *_place(row.language, row.modality),
        percent(row.value),
        "" if row.low is None or row.high is None else span(row.low, row.high),
        str(row.n),
        str(row.unscored),
    ]


def _place(language: str | None, modality: Modality | None) -> list[str]:
    return [language_name(language), modality_name(modality)]

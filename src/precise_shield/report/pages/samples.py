"""Prompts and answers for the page: cut, made visible, and hidden where they may harm."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import escape

from precise_shield.core.summary import Sample
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import cut, language_name, modality_name, visible

LONGEST = 1200
"""Characters of a prompt or an answer that the page shows."""

BUDGET = 500_000
"""Bytes of escaped text that all samples together may take, so that the page stays small."""

RIGHT_TO_LEFT = frozenset({"ar", "fa", "he", "ur", "ps", "sd", "ug", "yi", "dv"})


@dataclass(frozen=True)
class Said:
    """One text, ready to be escaped."""

    who: str
    label: str
    text: str
    note: str
    """How long it is, and how much was left out."""
    hidden: bool
    """Shown only after a click of its own."""


@dataclass(frozen=True)
class Shown:
    """One sample on the page."""

    title: str
    outcome: str
    language: str
    direction: str
    texts: tuple[Said, ...]


def shown_samples(view: View) -> tuple[list[Shown], int]:
    """The samples that fit the budget, in the summary's order, and how many did not."""
    kept: list[Shown] = []
    spent = 0
    for sample in view.summary.samples:
        shown = _shown(sample, view)
        spent += sum(len(str(escape(said.text)).encode()) + 200 for said in shown.texts)
        if spent > BUDGET:
            break
        kept.append(shown)
    return kept, len(view.summary.samples) - len(kept)


def _shown(sample: Sample, view: View) -> Shown:
    harmful = sample.harm == "harmful"
    labels = [
        f"{view.label(name)}: {sample.labels.get(name, 'no verdict').replace('_', '-')}"
        for name in sample.responses
    ]
    texts = [_said("request", "", sample.prompt, harmful)]
    for name, response in sample.responses.items():
        label = sample.labels.get(name, "no verdict").replace("_", "-")
        texts.append(_said(view.label(name), label, response, harmful))
    parts = [language_name(sample.language), modality_name(sample.modality), sample.harm]
    direction = "rtl" if sample.language.split("-")[0] in RIGHT_TO_LEFT else "auto"
    return Shown(
        " · ".join([*parts, sample.example]),
        " → ".join(labels[:2]),
        sample.language,
        direction,
        tuple(texts),
    )


def _said(who: str, label: str, text: str, hidden: bool) -> Said:
    kept, left = cut(text, LONGEST)
    note = f"{len(text):,} characters"
    if left:
        note += f", the first {LONGEST:,} shown, {left:,} left out"
    return Said(who, label, visible(kept), "empty" if not text else note, hidden)

"""Tables of a summary: cells of text with the number they sort by. No markup here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from precise_shield.core.records import LABELS, Modality
from precise_shield.core.summary import Measure, Receipt
from precise_shield.report.numbers.view import Contrast, Estimate, Rated, View
from precise_shield.report.numbers.words import (
    UNDEFINED,
    count,
    duration,
    known,
    language_name,
    modality_name,
    named_modalities,
    number,
    p_text,
    percent,
    points,
    small,
    span,
    tiny_share,
)

MEASURES: tuple[Measure, ...] = get_args(Measure)

MEASURE_NAMES: dict[Measure, str] = {
    "attack_success": "Attack success",
    "refusal_harmful": "Refusal of harmful requests",
    "refusal_matched": "Over-refusal, topic-matched benign",
    "refusal_ordinary": "Over-refusal, other benign",
    "benign_correct": "Right answers to benign requests",
}


@dataclass(frozen=True)
class Entry:
    """What a table cell shows, and the number that it sorts by."""

    text: str
    order: int | float | None = None
    tone: str = ""
    """`good`, `bad` or empty: a word for the style sheet, never the only carrier of meaning."""


@dataclass(frozen=True)
class Table:
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.rows} | {len(self.columns)}
        assert len(widths) == 1, f"{self.caption}: rows of different width {widths}"


Rows = list[list[Entry | str]]


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[Entry | str]], note: str = ""
) -> Table:
    """Build a table; a plain string becomes an entry that sorts by its text."""
    entries = tuple(
        tuple(Entry(item) if isinstance(item, str) else item for item in row) for row in rows
    )
    return Table(caption, tuple(columns), entries, note)


def rated(value: Rated | None) -> Entry:
    """An estimate or contrast with its company; `not measured` and `undefined` stay apart."""
    if value is None:
        return Entry("not measured")
    return Entry(str(value), value.value if value.defined else None)


def whole(value: int) -> Entry:
    return Entry(count(value), value)


def real(value: float | None, digits: int = 2) -> Entry:
    return Entry(number(value, digits), value if known(value) else None)


def share(value: float | None, digits: int = 0) -> Entry:
    return Entry(percent(value, digits), value if known(value) else None)


def p_entry(value: float | None) -> Entry:
    return Entry(p_text(value), value if known(value) else None)


def rates_table(view: View, measure: Measure, names: Sequence[str]) -> Table:
    """One row a cell, one column a condition, pooled rows last."""
    places: list[tuple[str | None, Modality | None]] = [
        (language, modality) for language in view.languages for modality in view.modalities
    ]
    places += [(language, None) for language in view.languages]
    places += [(None, modality) for modality in view.modalities] + [(None, None)]
    rows: Rows = [
        [
            language_name(language),
            modality_name(modality),
            *[rated(view.rate(name, measure, language, modality)) for name in names],
        ]
        for language, modality in places
    ]
    columns = ["language", "modality", *[view.label(name) for name in names]]
    return table(f"{MEASURE_NAMES[measure]}, share [95 % interval]", columns, rows)


def conditions_table(view: View) -> Table:
    """Every condition against every measure, pooled over cells."""
    kl = view.summary.verification.benign_kl if view.summary.verification else {}
    rows: Rows = [
        [
            condition.label,
            *[rated(view.rate(condition.name, measure)) for measure in MEASURES],
            rated_gap(view.gap(condition.name, "refusal_matched")),
            Entry(small(kl[condition.name]), kl[condition.name])
            if known(kl.get(condition.name))
            else "not measured",
            condition.note,
        ]
        for condition in view.summary.conditions
    ]
    columns = ["condition", *MEASURE_NAMES.values(), "Refusal gap (matched)", "Benign KL", "note"]
    return table(
        "Every condition, all cells pooled",
        columns,
        rows,
        note="Refusal gap: refusals of harmful minus refusals of topic-matched benign requests."
        " KL in nats a token, from the untouched model, on answers to benign requests.",
    )


def rated_gap(value: Contrast | None) -> Entry:
    """A refusal gap in points with its interval."""
    if value is None:
        return Entry("not measured")
    if not value.defined:
        return Entry(UNDEFINED)
    return Entry(f"{points(value.value)} {span(value.low, value.high)}", value.value)


def contrast_table(view: View, measure: Measure, pairs: Sequence[tuple[str, str]]) -> Table:
    """Paired differences of each pair of conditions, cell by cell, pooled rows last."""
    places = [(la, mo) for la in view.languages for mo in view.modalities]
    rows: Rows = []
    for name, reference in pairs:
        for language, modality in [*places, *[(None, mo) for mo in view.modalities], (None, None)]:
            change = view.change(name, reference, measure, language, modality)
            if change is None:
                continue
            rows.append(
                [
                    f"{view.label(name)} minus {view.label(reference)}",
                    language_name(language),
                    modality_name(modality),
                    rated(change),
                    "same prompts" if change.paired else "independent",
                    p_entry(change.p_value) if change.paired else "not tested",
                    p_entry(change.p_holm) if change.p_holm is not None else "not tested",
                ]
            )
    columns = ["contrast", "language", "modality", "points [95 %]", "pairing", "p", "p (Holm)"]
    return table(
        f"{MEASURE_NAMES[measure]}: differences",
        columns,
        rows,
        note="p: exact McNemar test, in pooled rows sign flips of whole groups; undefined where no"
        " prompt changed sides."
        " Holm's correction runs over the cells of a measure.",
    )


def gap_table(view: View, names: Sequence[str]) -> Table:
    """The primary endpoint per language, for both kinds of benign requests."""
    rows: Rows = [
        [
            language_name(language),
            view.label(name),
            rated_gap(view.gap(name, "refusal_matched", language)),
            rated_gap(view.gap(name, "refusal_ordinary", language)),
            rated(view.rate(name, "refusal_harmful", language)),
        ]
        for language in [*view.languages, None]
        for name in names
    ]
    columns = ["language", "condition", "gap, matched", "gap, ordinary", "refusal of harmful"]
    return table("Refusal of harmful minus refusal of benign requests, points", columns, rows)


def labels_table(view: View) -> Table:
    """What the judge called the answers to harmful requests."""
    labels = view.summary.data.labels
    present = [label for label in LABELS if any(label in row for row in labels.values())]
    rows: Rows = [
        [view.label(name), *[whole(row.get(label, 0)) for label in present]]
        for name, row in labels.items()
    ]
    columns = ["condition", *[label.replace("_", "-") for label in present]]
    return table("Verdicts on answers to harmful requests", columns, rows)


def claims_table(view: View) -> Table:
    tones = {"holds": "good", "does not hold": "bad"}
    rows: Rows = [
        [
            named_modalities(c.claim),
            Entry(c.verdict, tone=tones.get(c.verdict, "")),
            named_modalities(c.measured),
            c.reported,
            c.source,
        ]
        for c in view.summary.claims
    ]
    return table(
        "The papers' claims and this run",
        ["claim", "here", "this run measures", "the papers report", "source"],
        rows,
    )


def _rest(r: Receipt) -> Entry:
    if not r.untouched_verified:
        return Entry("NOT verified", tone="bad")
    return Entry("none: all could move") if r.everything else Entry("verified", tone="good")


def _training(r: Receipt) -> list[Entry]:
    """Steps, learning rate and final loss; dashes where nothing was trained."""
    if not r.trained_with_a:
        return [Entry("–")] * 3
    return [
        whole(r.steps), Entry(f"{r.learning_rate:g}", r.learning_rate), real(r.final_loss, 3)
    ]  # fmt: skip


def receipts_table(receipts: Sequence[Receipt], view: View) -> Table:
    """What each alignment was allowed to move and did move."""
    rows: Rows = [
        [
            view.label(r.condition),
            "all parameters" if r.everything else whole(r.neurons),
            f"{r.form}, rank {r.rank}" if r.rank else r.form,
            _part(r.trained_b_rows, r.model_parameters),
            _part(r.trained_with_a, r.model_parameters),
            _part(r.changed_weights, r.model_parameters),
            _rest(r),
            *_training(r),
            r.untouched_hash,
        ]
        for r in receipts
    ]
    columns = [
        "condition", "neurons", "form", "trained, rows of B", "trained, with A",
        "weights changed", "rest untouched", "steps", "learning rate", "final loss",
        "hash of the rest",
    ]  # fmt: skip
    return table("Receipts", columns, rows)


def _part(part: int, whole_count: int) -> Entry:
    return Entry(f"{count(part)} ({tiny_share(part, whole_count)})", part)


def costs_table(view: View) -> Table:
    rows: Rows = [
        [
            cost.stage,
            Entry(duration(cost.seconds), cost.seconds if known(cost.seconds) else None),
            Entry(f"{cost.peak_memory_mb:,.0f} MB", cost.peak_memory_mb)
            if known(cost.peak_memory_mb)
            else UNDEFINED,
            "reused" if cost.reused else "computed",
        ]
        for cost in view.summary.costs
    ]
    return table("Cost of each stage", ["stage", "time", "peak memory", "result"], rows)


def pairs_table(caption: str, facts: dict[str, str]) -> Table:
    """Two columns: a name and what it is."""
    return table(caption, ["what", "value"], [[key, value] for key, value in facts.items()])


def model_facts(view: View) -> dict[str, str]:
    m = view.summary.model
    return {
        "model": m.path,
        "revision": m.revision or "none given",
        "architecture": m.model_type,
        "weights, hash": m.fingerprint,
        "parameters": "not known" if m.parameters is None else count(m.parameters),
        "layers": count(m.layers),
        "units searched": count(m.neurons),
        "precision and device": f"{m.dtype} on {m.device}",
    }


def data_facts(view: View) -> dict[str, str]:
    d, s = view.summary.data, view.summary
    return {
        "data, hash": d.fingerprint,
        **{f"examples, {key}": count(n) for key, n in sorted(d.counts.items())},
        "languages": ", ".join(d.languages),
        "modalities": ", ".join(modality_name(m) for m in d.modalities),
        "rows left out": count(d.dropped),
        "judge": s.judge,
        "what counts as a hit": s.rule,
        "score": f"{s.neurons.score} at {s.neurons.position}, p = {s.neurons.p:g}",
        "chosen set": s.neurons.chosen,
    }


def run_facts(view: View) -> dict[str, str]:
    s = view.summary
    return {
        "run": s.name,
        "created": s.created,
        "summary schema": str(s.schema_version),
        **{f"seed, {key}": str(value) for key, value in sorted(s.seeds.items())},
        **{f"version, {key}": value for key, value in sorted(s.versions.items())},
    }


def config_text(view: View) -> str:
    """The configuration as given, as JSON with sorted keys."""
    return json.dumps(
        view.summary.config, indent=2, sort_keys=True, ensure_ascii=False, default=str
    )


def estimate_text(value: Estimate | None) -> str:
    """`82.4% [71, 90] n=60 unscored=3`, or why there is none."""
    return "not measured" if value is None else str(value)

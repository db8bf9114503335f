"""Two runs beside each other: what is the same, and what differs by more than noise."""

from __future__ import annotations

from dataclasses import dataclass

from precise_shield.core.summary import Measure
from precise_shield.report.drawing.figure import Figure
from precise_shield.report.numbers.finding import Finding, Tone
from precise_shield.report.numbers.tables import (
    MEASURE_NAMES,
    MEASURES,
    Entry,
    Rows,
    Table,
    rated,
    table,
)
from precise_shield.report.numbers.view import Contrast, Estimate, View, minus
from precise_shield.report.numbers.words import count, language_name, listed, modality_name
from precise_shield.report.pages.evidence import chosen_set
from precise_shield.report.safety.figures import rate_maps
from precise_shield.report.safety.headline import points_text, share_text


@dataclass(frozen=True)
class Comparison:
    """What the page says of a second run."""

    name: str
    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]


def comparison(a: View, b: View) -> Comparison:
    """Run `b` against run `a`; differences are `b` minus `a`, as of independent samples."""
    figures = [_maps(view, f"compare-{letter}") for letter, view in (("a", a), ("b", b))]
    return Comparison(
        b.summary.name,
        (_sameness(a, b), _effect(a, b)),
        tuple(figure for figure in figures if figure is not None),
        (_facts(a, b), _pooled(a, b), _cells(a, b)),
    )


def _maps(view: View, name: str) -> Figure | None:
    conditions = [*view.of_kind("base")[:1], *view.of_kind("aligned")[:1]]
    lead = "Percent of harmful requests whose answer is a hit; stronger colour is worse."
    return rate_maps(view, conditions, name, f"Attack success in {view.summary.name}", lead)


def _items(view: View) -> dict[str, str]:
    s = view.summary
    facts = chosen_set(view)
    receipt = next(iter(s.receipts), None)
    return {
        "model, weights": s.model.fingerprint,
        "test data": s.data.fingerprint,
        "judge": s.judge,
        "rule of a hit": s.rule,
        "score": s.neurons.score,
        "token position": s.neurons.position,
        "p": f"{s.neurons.p:g}",
        "chosen set": s.neurons.chosen,
        "its size": "undefined" if facts is None else count(facts.size),
        "weights changed": "none" if receipt is None else count(receipt.changed_weights),
        "trained, with A": "none" if receipt is None else count(receipt.trained_with_a),
        "seeds": ", ".join(f"{key} {value}" for key, value in sorted(s.seeds.items())),
    }


MUST_MATCH = ("model, weights", "test data", "judge", "rule of a hit")


def _facts(a: View, b: View) -> Table:
    one, two = _items(a), _items(b)
    rows: Rows = [
        [key, one[key], two[key], "same" if one[key] == two[key] else Entry("differs", tone="bad")]
        for key in one
    ]
    columns = ["what", f"A: {a.summary.name}", f"B: {b.summary.name}", "same?"]
    return table("What the two runs share", columns, rows)


def _apart(a: View, b: View) -> list[str]:
    """What has to be the same in both runs for their numbers to be compared, and is not."""
    one, two = _items(a), _items(b)
    return [key for key in MUST_MATCH if one[key] != two[key]]


def _sameness(a: View, b: View) -> Finding:
    apart = _apart(a, b)
    if apart:
        words = f"The runs differ in {listed(apart)}: their numbers are not of one experiment."
        return Finding("Comparable", "bad", words)
    return Finding("Comparable", "good", "Same model, same data, same judge, same rule of a hit.")


def _after(view: View, measure: Measure, *place: str | None) -> Estimate | None:
    aligned = view.first("aligned")
    if aligned is None:
        return None
    language = place[0] if place else None
    modality = next((m for m in view.modalities if place and m == place[1]), None)
    if place and place[1] is not None and modality is None:
        return None
    return view.rate(aligned.name, measure, language, modality)


def _effect(a: View, b: View) -> Finding:
    one, two = _after(a, "attack_success"), _after(b, "attack_success")
    change = minus(two, one)
    if change is None or not change.defined:
        return Finding("After tuning", "unclear", "Attack success cannot be compared.")
    tones: dict[int, Tone] = {-1: "good", 0: "unclear", 1: "bad"}
    words = {-1: "B is safer", 0: "no difference beyond noise", 1: "A is safer"}
    if apart := _apart(a, b):
        tones = dict.fromkeys(tones, "plain")
        words = dict.fromkeys(words, f"no verdict: they differ in {listed(apart)}")
    return Finding(
        "After tuning",
        tones[change.direction],
        f"Attack success {share_text(one)} in A, {share_text(two)} in B:"
        f" {words[change.direction]} ({points_text(change)}).",
    )


def _pooled(a: View, b: View) -> Table:
    rows: Rows = []
    for measure in MEASURES:
        befores = [_before(view, measure) for view in (a, b)]
        one, two = _after(a, measure), _after(b, measure)
        ends = [rated(one), rated(two), *[rated(before) for before in befores]]
        rows.append([MEASURE_NAMES[measure], _beside(minus(two, one)), *ends])
    columns = ["measure", "B minus A, tuned", "A tuned", "B tuned", "A untouched", "B untouched"]
    return table("All cells pooled", columns, rows, note="Differences as of independent samples.")


def _before(view: View, measure: Measure) -> Estimate | None:
    base = view.first("base")
    return None if base is None else view.rate(base.name, measure)


def _beside(change: Contrast | None) -> Entry:
    if change is None:
        return Entry("not measured")
    return Entry(points_text(change), change.value if change.defined else None)


def _cells(a: View, b: View) -> Table:
    languages = list(dict.fromkeys([*a.languages, *b.languages]))
    modalities = list(dict.fromkeys([*a.modalities, *b.modalities]))
    rows: Rows = []
    for language in languages:
        for modality in modalities:
            one, two = (_after(v, "attack_success", language, modality) for v in (a, b))
            name = [language_name(language), modality_name(modality)]
            rows.append([*name, rated(one), rated(two), _beside(minus(two, one))])
    columns = ["language", "modality", "A tuned", "B tuned", "B minus A"]
    return table("Attack success after tuning, cell by cell", columns, rows)

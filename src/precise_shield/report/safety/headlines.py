"""The figures beside the average, and results by the manifest's own columns."""

from __future__ import annotations

from precise_shield.core.records import MODALITIES
from precise_shield.core.summary import BreakdownRow, HeadlineRow
from precise_shield.core.summary.headlines import Figure
from precise_shield.report.numbers.tables import MEASURE_NAMES, Entry, Rows, Table, table
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import language_name, modality_name

NAMES: dict[Figure, str] = {
    "auc_matched": "AUC of the first-token refusal log-odds, harmful against topic-matched",
    "auc_ordinary": "AUC of the first-token refusal log-odds, harmful against other benign",
    "worst_language": "Attack success, worst language",
    "worst_modality": "Attack success, worst modality",
    "resource_gap": "Attack success, other minus high-resource languages",
    "consistency": "Two languages agree on refusing the same request",
    "refused_everywhere": "Requests refused in all languages",
    "refused_nowhere": "Requests refused in no language",
    "response_language": "Answers in the language of the prompt",
}
_PLAIN = ("auc_matched", "auc_ordinary")
"""Figures that are no percentages."""


def headline_text(row: HeadlineRow) -> str:
    """A figure with its interval, n, unscored and bounds."""
    company = f"n={row.n} unscored={row.unscored}"
    if row.value is None:
        return f"undefined {company}"
    scale, digits, sign = (1, 2, "") if row.figure in _PLAIN else (100, 0, "%")
    text = f"{scale * row.value:.{digits}f}{sign}"
    if row.low is not None and row.high is not None:
        text += f" [{scale * row.low:.{digits}f}, {scale * row.high:.{digits}f}]"
    if row.where is not None:
        text = f"{_place(row)} {text}"
    bounds = ""
    if row.least is not None and row.most is not None:
        bounds = f" bounds {scale * row.least:.{digits}f} to {scale * row.most:.{digits}f}"
    return f"{text} {company}{bounds}"


def _place(row: HeadlineRow) -> str:
    if row.figure == "worst_language":
        return language_name(row.where)
    return next((modality_name(each) for each in MODALITIES if each == row.where), "")


def headline_tables(view: View) -> list[Table]:
    """One table of figures, and one for each column that the prompts differ in."""
    found = view.summary.headlines
    if found is None or not found.rows:
        return []
    at = {(row.figure, row.condition): row for row in found.rows}
    conditions = [c for c in view.summary.conditions if any(k[1] == c.name for k in at)]
    rows: Rows = [
        [name, *[_entry(at.get((figure, c.name))) for c in conditions]]
        for figure, name in NAMES.items()
    ]
    columns = ["figure", *[c.label for c in conditions]]
    note = (
        "Intervals resample parallel groups. Bounds say what unscored answers could change. The"
        " worst of several noisy rates lies too high on average; no place is named where several"
        " tie."
    )
    tables = [table("Beside the average", columns, rows, note=note)]
    pooled = [row for row in found.breakdown if row.language is None]
    for by in dict.fromkeys(row.by for row in pooled):
        tables.append(_breakdown(view, [row for row in pooled if row.by == by], by))
    cells = [row for row in found.breakdown if row.language is not None]
    return [*tables, _cells(view, cells)] if cells else tables


def _cells(view: View, found: list[BreakdownRow]) -> Table:
    """Attack success in the cells of language, modality and category; before and after."""
    at = {(r.language, r.modality, r.key, r.condition): r for r in found}
    firsts = [view.first(kind) for kind in ("base", "aligned")]
    shown = [condition for condition in firsts if condition is not None]
    places = dict.fromkeys((r.language, r.modality, r.key) for r in found)
    rows: Rows = [
        [
            language_name(language),
            "" if modality is None else modality_name(modality),
            key,
            *[_part(at.get((language, modality, key, c.name))) for c in shown],
        ]
        for language, modality, key in places
    ]
    return table(
        "Attack success by language, modality and category",
        ["language", "modality", "category", *[c.label for c in shown]],
        rows,
        note="Every other condition stands in summary.json. Small cells have wide intervals.",
    )


def _entry(row: HeadlineRow | None) -> Entry:
    return Entry("not measured") if row is None else Entry(headline_text(row), row.value)


def _breakdown(view: View, found: list[BreakdownRow], by: str) -> Table:
    at = {(row.measure, row.key, row.condition): row for row in found}
    conditions = [c for c in view.summary.conditions if any(k[2] == c.name for k in at)]
    places = dict.fromkeys((row.measure, row.key) for row in found)
    rows: Rows = [
        [key, MEASURE_NAMES[measure], *[_part(at.get((measure, key, c.name))) for c in conditions]]
        for measure, key in places
    ]
    return table(f"Results by {by}", [by, "measure", *[c.label for c in conditions]], rows)


def _part(row: BreakdownRow | None) -> Entry:
    if row is None:
        return Entry("not measured")
    company = f"n={row.n} unscored={row.unscored}"
    if row.value is None or row.low is None or row.high is None:
        return Entry(f"undefined {company}")
    bounds = ""
    if row.unscored and row.least is not None and row.most is not None:
        bounds = f" bounds {100 * row.least:.0f} to {100 * row.most:.0f}"
    text = f"{100 * row.value:.0f}% [{100 * row.low:.0f}, {100 * row.high:.0f}]"
    return Entry(f"{text} {company}{bounds}", row.value)


def headline_rows(view: View, names: list[str]) -> list[list[str]]:
    """The same figures for the terminal: figure, condition, value; those that any has."""
    found = view.summary.headlines
    if found is None:
        return []
    at = {(row.figure, row.condition): row for row in found.rows}
    rows = []
    for figure, name in NAMES.items():
        kept = [at[figure, each] for each in names if (figure, each) in at]
        if all(row.value is None for row in kept):
            continue
        for index, row in enumerate(kept):
            label = view.label(row.condition)
            rows.append([name if index == 0 else "", label, headline_text(row)])
    return rows

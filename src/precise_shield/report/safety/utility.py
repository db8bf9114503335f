"""Utility and over-refusal as tables."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.summary import HarnessRow, UtilityRow
from precise_shield.report.numbers.tables import Entry, Rows, Table, table, whole
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import language_name

_NAMES = {
    "perplexity": "Perplexity of given benign answers",
    "perplexity_own": "Perplexity of the untouched model's own benign answers",
    "choice_accuracy": "Multiple choice, right letter likeliest",
    "exact_match": "Checkable answer found (flexible rule)",
    "exact_match_strict": "Checkable answer in the form asked for (strict rule)",
}
_NOTE = (
    "n counts tokens for perplexity. Words that the untouched model wrote itself are likeliest to"
    " itself: their perplexity favours it, and says only how far the others moved."
)
_PROMPTS = {
    "harmful": "harmful",
    "matched": "benign, topic-matched",
    "ordinary": "benign, other",
}


def utility_tables(view: View) -> list[Table]:
    """Usefulness by language, and XSTest's classes; nothing where it was not measured."""
    found = view.summary.utility
    if found is None:
        return []
    at = {(row.measure, row.language, row.condition): row for row in found.rows}
    conditions = [c for c in view.summary.conditions if any(k[2] == c.name for k in at)]
    places = dict.fromkeys((row.measure, row.language) for row in found.rows)
    rows: Rows = [
        [_NAMES[measure], language_name(language)]
        + [_entry(at.get((measure, language, c.name))) for c in conditions]
        for measure, language in places
    ]
    columns = ["measure", "language", *[c.label for c in conditions]]
    classes: Rows = [
        [
            view.label(row.condition),
            _PROMPTS[row.prompts],
            whole(row.full_compliance),
            whole(row.partial_refusal),
            whole(row.full_refusal),
            whole(row.unclear),
        ]
        for row in found.compliance
    ]
    heads = [
        "condition",
        "prompts",
        "full compliance",
        "partial refusal",
        "full refusal",
        "unclear",
    ]
    return [
        table("Usefulness by language", columns, rows, note=_NOTE),
        table(
            "Compliance and refusal, after XSTest",
            heads,
            classes,
            note="By the built-in refusal phrases: a partial refusal declines and then answers.",
        ),
        *_harness(view, found.harness),
    ]


def _harness(view: View, found: Sequence[HarnessRow]) -> list[Table]:
    """lm-eval's tasks, a column a condition; nothing without any."""
    if not found:
        return []
    names = list(dict.fromkeys(row.condition for row in found))
    at = {(row.task, row.metric, row.condition): row for row in found}
    rows: Rows = [
        [task, metric, *[_scored(at.get((task, metric, name))) for name in names]]
        for task, metric in dict.fromkeys((row.task, row.metric) for row in found)
    ]
    columns = ["task", "metric", *[view.label(name) for name in names]]
    return [table("Tasks of lm-eval", columns, rows, note="Wilson 95 % where rows score 0 or 1.")]


def _scored(row: HarnessRow | None) -> Entry:
    if row is None:
        return Entry("not measured")
    text = f"{row.value:.3f}"
    if row.low is not None and row.high is not None:
        text += f" [{row.low:.2f}, {row.high:.2f}]"
    return Entry(f"{text} n={row.n}", row.value)


def _entry(row: UtilityRow | None) -> Entry:
    if row is None:
        return Entry("not measured")
    if row.value is None:
        return Entry(f"undefined n={row.n} unscored={row.unscored}")
    scale, digits, sign = (1, 2, "") if row.measure.startswith("perplexity") else (100, 0, "%")
    text = f"{scale * row.value:.{digits}f}{sign}"
    if row.low is not None and row.high is not None:
        text += f" [{scale * row.low:.{digits}f}, {scale * row.high:.{digits}f}]"
    return Entry(f"{text} n={row.n} unscored={row.unscored}", row.value)

"""Judges side by side: their rates and how far they agree."""

from __future__ import annotations

from precise_shield.core.summary import AgreementRow, GradeRow, JudgeFacts, Judging, RateRow
from precise_shield.report.numbers.tables import (
    MEASURE_NAMES,
    Entry,
    Rows,
    Table,
    real,
    share,
    table,
    whole,
)
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import language_name, number

_SCALES = {"attack_success": "hit, miss or unscored", "refusal": "refusal, none or unscored"}


def judging_tables(view: View) -> list[Table]:
    """Grades, and with several judges their rates and agreement; nothing where there is neither."""
    judging = view.summary.judging
    if judging is None:
        return []
    graded = [_grades(view, judge) for judge in judging.judges if judge.grades]
    if len(judging.judges) < 2:
        return graded
    return [_rates(view, judging), *graded, _agreement(view, judging), _described(judging)]


def _grades(view: View, judge: JudgeFacts) -> Table:
    rows: Rows = [
        [view.label(row.condition), language_name(row.language), _grade(row)]
        for row in judge.grades
    ]
    return table(
        f"Mean grade of answers to harmful requests, by {judge.name}",
        ["condition", "language", "grade in [0, 1] [95 %]"],
        rows,
        note="0 is harmless, 1 as helpful to the request as can be; intervals resample parallel"
        " groups. An answer without a readable grade has none.",
    )


def _grade(row: GradeRow) -> Entry:
    company = f"n={row.n} ungraded={row.ungraded}"
    if row.value is None:
        return Entry(f"undefined {company}")
    sure = "" if row.low is None or row.high is None else f" [{row.low:.2f}, {row.high:.2f}]"
    return Entry(f"{number(row.value, 2)}{sure} {company}", row.value)


def _rates(view: View, judging: Judging) -> Table:
    found = {
        (judge.name, row.condition, row.measure): row
        for judge in judging.judges
        for row in judge.rates
        if row.language is None
    }
    places = dict.fromkeys((condition, measure) for _, condition, measure in found)
    rows: Rows = [
        [
            view.label(condition),
            MEASURE_NAMES[measure],
            *[_rate(found.get((judge.name, condition, measure))) for judge in judging.judges],
        ]
        for condition, measure in places
    ]
    columns = ["condition", "measure", *[judge.name for judge in judging.judges]]
    return table(
        "The same answers under each judge, all cells pooled",
        columns,
        rows,
        note=f"The rest of this page rests on {judging.primary}.",
    )


def _rate(row: RateRow | None) -> Entry:
    if row is None:
        return Entry("not measured")
    if row.value is None or row.low is None or row.high is None:
        return Entry(f"undefined n={row.n} unscored={row.unscored}")
    text = f"{100 * row.value:.0f}% [{100 * row.low:.0f}, {100 * row.high:.0f}]"
    return Entry(f"{text} n={row.n} unscored={row.unscored}", row.value)


def _agreement(view: View, judging: Judging) -> Table:
    rows: Rows = [
        [
            " / ".join(row.judges),
            _SCALES[row.scale],
            language_name(row.language),
            "all" if row.condition is None else view.label(row.condition),
            whole(row.n),
            share(row.observed),
            _kappa(row),
        ]
        for row in judging.agreement
    ]
    columns = ["judges", "what", "language", "condition", "n", "say the same", "kappa [95 %]"]
    return table(
        "Agreement of judges beyond chance",
        columns,
        rows,
        note="Cohen's kappa for two judges, Fleiss' for more; intervals resample parallel groups.",
    )


def _kappa(row: AgreementRow) -> Entry:
    if row.kappa is None:
        return Entry("undefined: all say one and the same")
    if row.low is None or row.high is None:
        return real(row.kappa)
    return Entry(f"{number(row.kappa, 2)} [{row.low:.2f}, {row.high:.2f}]", row.kappa)


def _described(judging: Judging) -> Table:
    rows: Rows = [
        [judge.name, ", ".join(judge.languages) or "any", judge.describes]
        for judge in judging.judges
    ]
    return table("What each judge's labels rest on", ["judge", "languages", "basis"], rows)

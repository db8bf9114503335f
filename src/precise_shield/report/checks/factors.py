"""Effects over several neuron sets, as a table."""

from __future__ import annotations

from precise_shield.core.summary import FactorRow
from precise_shield.report.numbers.tables import MEASURE_NAMES, Entry, Rows, Table, table, whole
from precise_shield.report.numbers.view import View

_WORDS = {
    "aligned": "safety neurons tuned",
    "base": "untouched",
    "random_rows": "random neurons tuned",
    "amplified": "amplified",
    "random_amplified": "random amplified",
    "suppressed": "safety neurons at zero",
    "random_suppressed": "random neurons at zero",
}


def factor_tables(view: View) -> list[Table]:
    """One table; nothing where every effect and control is a single run."""
    if not view.summary.factors:
        return []
    rows: Rows = [
        [
            f"{_WORDS[row.effect]} − {_WORDS[row.control]}",
            MEASURE_NAMES[row.measure],
            _entry(row),
            f"{row.runs} / {row.controls}",
            whole(row.groups),
        ]
        for row in view.summary.factors
    ]
    return [
        table(
            "Effects with neuron sets and seeds as random factors",
            ["effect", "measure", "difference, points [95 %]", "runs / controls", "groups"],
            rows,
            note="Parallel groups and runs are drawn anew on each side. A side with one run adds"
            " no spread of its own, and below about five the interval is too narrow.",
        )
    ]


def _entry(row: FactorRow) -> Entry:
    if row.difference is None:
        return Entry(f"undefined n={row.n} unscored={row.unscored}")
    text = f"{100 * row.difference:+.1f}"
    if row.low is not None and row.high is not None:
        text += f" [{100 * row.low:+.1f}, {100 * row.high:+.1f}]"
    return Entry(f"{text} n={row.n} unscored={row.unscored}", row.difference)

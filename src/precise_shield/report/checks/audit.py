"""What cheap attacks leave of the alignment."""

from __future__ import annotations

from precise_shield.core.summary import AuditRow
from precise_shield.report.numbers.tables import Entry, Rows, Table, table
from precise_shield.report.numbers.view import View


def audit_tables(view: View) -> list[Table]:
    """The attack-back audit; nothing where it was not asked for."""
    audit = view.summary.audit
    if audit is None:
        return []
    rows: Rows = [
        [
            row.attack + (" (control)" if row.control else ""),
            Entry(_rate(row), row.value),
            Entry(_change(row), row.change),
            Entry(_survives(row), row.survives),
        ]
        for row in audit.rows
    ]
    restored = "Every weight was put back bit for bit." if audit.restored else ""
    return [
        table(
            "Attack-back audit: attack success after cheap attacks on the weights",
            [
                "attack",
                "attack success [95 %]",
                "change from aligned, points",
                "what survives [95 %]",
            ],
            rows,
            note=f"On {view.label(audit.condition)}, in memory only. {restored} What survives is"
            " the share of the alignment's reduction of attack success; it is open where there was"
            " none beyond its interval.",
        )
    ]


def audit_line(view: View) -> tuple[str, str] | None:
    """One sentence for the terminal; None where there was no audit."""
    audit = view.summary.audit
    if audit is None:
        return None
    parts = [
        f"{row.attack} {_rate(row)}"
        + (f", {_survives(row)} survives" if row.survives is not None else "")
        for row in audit.rows
        if not row.control
    ]
    return "Attack-back audit", "attack success " + "; ".join(parts)


def _rate(row: AuditRow) -> str:
    company = f"n={row.n} unscored={row.unscored}"
    if row.value is None:
        return f"undefined {company}"
    interval = ""
    if row.low is not None and row.high is not None:
        interval = f" [{100 * row.low:.0f}, {100 * row.high:.0f}]"
    return f"{100 * row.value:.0f}%{interval} {company}"


def _change(row: AuditRow) -> str:
    if row.change is None:
        return "–"
    if row.change_low is None or row.change_high is None:
        return f"{100 * row.change:+.0f}"
    return f"{100 * row.change:+.0f} [{100 * row.change_low:+.0f}, {100 * row.change_high:+.0f}]"


def _survives(row: AuditRow) -> str:
    if row.survives is None:
        return "–"
    interval = ""
    if row.survives_low is not None and row.survives_high is not None:
        interval = f" [{100 * row.survives_low:.0f}, {100 * row.survives_high:.0f}]"
    return f"{100 * row.survives:.0f}%{interval}"

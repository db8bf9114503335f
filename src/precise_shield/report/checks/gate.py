"""What the gate says of an alignment."""

from __future__ import annotations

from precise_shield.core.summary import GateFacts
from precise_shield.report.checks.search import matched_tables
from precise_shield.report.numbers.tables import Rows, Table, real, table
from precise_shield.report.numbers.view import View


def gate_sentence(facts: GateFacts) -> str:
    """Whether the alignment may be exported, and which limits stand against it."""
    now, count = facts.aligned, len(facts.limits)
    seen = f"on {now.harmful} harmful and {now.benign} benign {facts.split} prompts"
    seen += f" ({facts.asked_of})" if facts.asked_of else ""
    if facts.weaker is not None:
        return f"{facts.condition} is weaker than its base {seen}: {facts.weaker}. Never exported."
    if facts.passed:
        return f"{facts.condition} keeps all {count} limits {seen}."
    broken = "; ".join(limit.sentence for limit in facts.broken)
    return f"{facts.condition} breaks {len(facts.broken)} of {count} limits {seen}: {broken}."


def gate_tables(view: View) -> list[Table]:
    """The gate's limits, and arms at like cost where there was a search."""
    return [*(_limits(view, facts) for facts in view.summary.gate), *matched_tables(view)]


def _limits(view: View, facts: GateFacts) -> Table:
    rows: Rows = [
        [one.name, real(one.value, 3), real(one.limit, 3), "kept" if one.kept else "broken"]
        for one in facts.limits
    ]
    return table(
        f"Gate: {view.label(facts.condition)}, {facts.split} prompts",
        ["limit", "measured", "asked for", "verdict"],
        rows,
        note=gate_sentence(facts),
    )

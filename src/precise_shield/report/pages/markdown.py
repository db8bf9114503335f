"""The report as Markdown, for a model card. It holds no prompts and no answers."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.summary import Summary
from precise_shield.report.checks.audit import audit_tables
from precise_shield.report.checks.causal import causal_tables
from precise_shield.report.checks.data_notes import data_tables
from precise_shield.report.checks.factors import factor_tables
from precise_shield.report.checks.gate import gate_tables
from precise_shield.report.checks.judging import judging_tables
from precise_shield.report.checks.search import search_tables
from precise_shield.report.neurons.grids import grid_tables
from precise_shield.report.neurons.local import local_tables
from precise_shield.report.neurons.sureness import sureness_tables
from precise_shield.report.numbers.finding import Finding
from precise_shield.report.numbers.tables import (
    MEASURE_NAMES,
    MEASURES,
    Entry,
    Rows,
    Table,
    claims_table,
    costs_table,
    data_facts,
    model_facts,
    pairs_table,
    rated,
    rates_table,
    receipts_table,
    run_facts,
    table,
)
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import visible
from precise_shield.report.pages.evidence import (
    attack_table,
    believe_findings,
    changed_findings,
    where_findings,
)
from precise_shield.report.safety.headline import safer_findings, verdict
from precise_shield.report.safety.headlines import headline_tables
from precise_shield.report.safety.transfer import transfer_tables
from precise_shield.report.safety.utility import utility_tables

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "://": ":&#47;&#47;"}
_ESCAPED = "\\`*_~|#!"


def plain(text: str) -> str:
    """Foreign text as one line of Markdown that shows as itself: no markup, no link, no HTML."""
    line = " ".join(visible(text).split())
    for sign, entity in _ENTITIES.items():
        line = line.replace(sign, entity)
    line = "".join(f"\\{sign}" if sign in _ESCAPED else sign for sign in line)
    line = line.replace("&\\#47;", "&#47;").replace("](", "]\\(").replace("]:", "]\\:")
    return line.replace("www.", "www&#46;")


def render_markdown(summary: Summary) -> str:
    """The report as GitHub-flavoured Markdown, tables and sentences only.

    Args:
        summary: what the run measured.

    Returns:
        Text that ends in a newline; equal summaries give equal text.
    """
    view = View(summary)
    head = verdict(view)
    lines = [
        f"# Safety report: {plain(summary.name)}",
        "",
        f"**{plain(head.sentence)}**",
        "",
        f"Judge: {plain(summary.judge)}. What counts as a hit: {plain(summary.rule).rstrip('.')}."
        " Intervals are 95 %; an answer without a verdict is unscored and never counted.",
        "",
    ]
    lines += _section("Is the model safer, for whom, at what cost?", safer_findings(view))
    lines += [*_table(_measures(view)), *_table(_cells(view))]
    for numbers in [*headline_tables(view), *utility_tables(view), *data_tables(view)]:
        lines += _table(numbers)
    lines += _section("Can I believe it?", believe_findings(view))
    lines += _table(claims_table(view)) if summary.claims else []
    for numbers in [*causal_tables(view), *judging_tables(view), *gate_tables(view)]:
        lines += _table(numbers)
    lines += [f"- Warning: {plain(warning)}" for warning in summary.warnings]
    lines += ["", *_section("What was changed?", changed_findings(view))]
    lines += _table(receipts_table(summary.receipts, view)) if summary.receipts else []
    lines += [line for numbers in search_tables(view) for line in _table(numbers)]
    lines += _section("Where does safety live?", where_findings(view))
    for numbers in [*grid_tables(view), *sureness_tables(view), *local_tables(view)]:
        lines += _table(numbers)
    lines += [line for numbers in transfer_tables(view) for line in _table(numbers)]
    lines += ["## What could an attacker still do?", "", *_table(attack_table(view))]
    for numbers in [*factor_tables(view), *audit_tables(view)]:
        lines += _table(numbers)
    lines += ["## Provenance", ""]
    for caption, facts in (
        ("Model", model_facts(view)),
        ("Data and method", data_facts(view)),
        ("Run", run_facts(view)),
    ):
        lines += _table(pairs_table(caption, facts))
    lines += _table(costs_table(view))
    return "\n".join(lines).rstrip() + "\n"


def _section(title: str, findings: Sequence[Finding]) -> list[str]:
    items = [f"- *{f.stamp}* {plain(f.about)}: {plain(f.sentence)}" for f in findings]
    return [f"## {title}", "", *items, ""]


def _measures(view: View) -> Table:
    conditions = view.summary.conditions
    rows: Rows = [
        [MEASURE_NAMES[measure], *[rated(view.rate(c.name, measure)) for c in conditions]]
        for measure in MEASURES
    ]
    return table("All cells pooled", ["measure", *[c.label for c in conditions]], rows)


def _cells(view: View) -> Table:
    kinds = ("base", "aligned", "random_rows")
    names = [c.name for c in view.summary.conditions if c.kind in kinds]
    return rates_table(view, "attack_success", names)


def _table(numbers: Table) -> list[str]:
    lines = [f"**{plain(numbers.caption)}**", ""]
    if not numbers.rows:
        return [*lines, "Nothing measured.", ""]
    lines.append(_row([Entry(name) for name in numbers.columns]))
    lines.append("|" + " --- |" * len(numbers.columns))
    lines += [_row(row) for row in numbers.rows]
    note = [plain(numbers.note), ""] if numbers.note else []
    return [*lines, "", *note]


def _row(entries: Sequence[Entry]) -> str:
    return "| " + " | ".join(plain(entry.text) for entry in entries) + " |"

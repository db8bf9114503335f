"""The table that ends a run in the terminal: plain lines, or the same for rich."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from precise_shield.core.records import Modality
from precise_shield.core.summary import Condition, Summary
from precise_shield.report.checks.audit import audit_line
from precise_shield.report.checks.gate import gate_sentence
from precise_shield.report.checks.search import search_lines
from precise_shield.report.numbers.tables import MEASURE_NAMES, MEASURES
from precise_shield.report.numbers.view import Estimate, View
from precise_shield.report.numbers.words import (
    language_name,
    modality_name,
    small,
    visible,
)
from precise_shield.report.pages.evidence import believe_findings, changed_findings, where_findings
from precise_shield.report.safety.headline import benign_measure, points_text, share_text, verdict
from precise_shield.report.safety.headlines import headline_rows

_HEADS = {"base": "before", "aligned": "after"}


def summary_lines(summary: Summary) -> list[str]:
    """The measured table as plain lines of text, for logs and pipes.

    Args:
        summary: what the run measured.

    Returns:
        Lines without line ends and without control characters.
    """
    view = View(summary)
    lines = [verdict(view).sentence, ""]
    for title, rows in _blocks(view):
        lines += [title, *aligned_rows(rows), ""]
    lines += [f"{about}: {sentence}" for about, sentence in _closing(view)]
    return [visible(line) for line in lines]


def summary_renderables(summary: Summary) -> RenderableType:
    """The same as `summary_lines`, as one rich renderable."""
    view = View(summary)
    parts: list[RenderableType] = [Text(visible(verdict(view).sentence), style="bold"), Text("")]
    for title, rows in _blocks(view):
        grid = RichTable(title=Text(visible(title)), box=box.SIMPLE_HEAD, title_justify="left")
        for index, head in enumerate(rows[0]):
            grid.add_column(Text(visible(head)), justify="left" if index < 2 else "right")
        for row in rows[1:]:
            grid.add_row(*[Text(visible(item)) for item in row])
        parts.append(grid)
    for about, sentence in _closing(view):
        parts.append(Text.assemble((f"{visible(about)}: ", "bold"), visible(sentence)))
    return Group(*parts)


def _shown(view: View) -> list[Condition]:
    """Conditions of the first table: before, after, and the first random rows."""
    firsts = [view.first(kind) for kind in ("base", "aligned", "random_rows")]
    return [condition for condition in firsts if condition is not None]


def _head(view: View, condition: Condition) -> str:
    return view.beside if condition.kind == "random_rows" else _HEADS[condition.kind]


def _blocks(view: View) -> list[tuple[str, list[list[str]]]]:
    blocks = [
        ("Attack success, % [95 % interval]", _cells(view)),
        ("All cells pooled, % [95 % interval]", _conditions(view)),
    ]
    beside = headline_rows(view, [condition.name for condition in _shown(view)])
    if beside:
        blocks.append(("Beside the average", [["figure", "condition", "value"], *beside]))
    return blocks


def _cells(view: View) -> list[list[str]]:
    shown = _shown(view)
    rows = [["language", "modality", *[_head(view, c) for c in shown], "n", "unscored"]]
    places: list[tuple[str | None, Modality | None]] = [
        (language, modality) for language in view.languages for modality in view.modalities
    ]
    for language, modality in [*places, *[(None, m) for m in view.modalities], (None, None)]:
        rates = [view.rate(c.name, "attack_success", language, modality) for c in shown]
        found = [rate for rate in rates if rate is not None]
        counts = ["/".join(dict.fromkeys(str(r.n) for r in found)) or "0"]
        counts.append("/".join(str(r.unscored) for r in found) or "0")
        names = [language_name(language), modality_name(modality)]
        rows.append([*names, *[share_text(rate) for rate in rates], *counts])
    return rows


def _conditions(view: View) -> list[list[str]]:
    """One row a measure and condition: many columns would not fit a terminal."""
    check = view.summary.verification
    kl = {} if check is None else check.benign_kl
    names = [c.name for c in view.summary.conditions]
    blocks = [
        (MEASURE_NAMES[m], [_share_cells(view.rate(name, m)) for name in names]) for m in MEASURES
    ]
    blocks.append(("Refusal gap, harmful minus benign", [_gap_cells(view, name) for name in names]))
    kls = [small(kl[name]) if name in kl else "not measured" for name in names]
    blocks.append(("Benign KL, nats a token", [[value, "", ""] for value in kls]))
    rows = [["measure", "condition", "value", "n", "unscored"]]
    for title, values in blocks:
        labels = [c.label for c in view.summary.conditions]
        for index, (label, cells) in enumerate(zip(labels, values, strict=True)):
            rows.append([title if index == 0 else "", label, *cells])
    return rows


def _share_cells(estimate: Estimate | None) -> list[str]:
    """A share, and what it rests on."""
    counts = ["", ""] if estimate is None else [str(estimate.n), str(estimate.unscored)]
    return [share_text(estimate), *counts]


def _gap_cells(view: View, condition: str) -> list[str]:
    """The refusal gap, with the answers of either kind that it rests on."""
    benign = benign_measure(view, condition)
    gap = view.gap(condition, benign)
    sides = [view.rate(condition, measure) for measure in ("refusal_harmful", benign)]
    there = [side for side in sides if side is not None]
    counts = ["+".join(str(s.n) for s in there), "+".join(str(s.unscored) for s in there)]
    return [points_text(gap), *(["", ""] if gap is None else counts)]


def _closing(view: View) -> list[tuple[str, str]]:
    wanted = {"Causal check", "Deciding or writing", "Random rows", "Unscored", "Stability"}
    findings = [f for f in believe_findings(view) if f.about in wanted]
    findings += [*where_findings(view), *changed_findings(view)]
    lines = [(finding.about, finding.sentence) for finding in findings]
    lines += [("Gate", gate_sentence(facts)) for facts in view.summary.gate]
    lines += search_lines(view)
    audited = audit_line(view)
    lines += [] if audited is None else [audited]
    return lines + [("Warning", warning) for warning in view.summary.warnings]


def aligned_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines whose columns stand below each other, without control characters."""
    clean = [[visible(item) for item in row] for row in rows]
    widths = [max(cell_len(row[k]) for row in clean) for k in range(len(clean[0]))]
    return [
        "  ".join(
            item + " " * (width - cell_len(item)) for item, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in clean
    ]

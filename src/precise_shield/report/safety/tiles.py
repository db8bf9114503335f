"""The key numbers at the top of the page: before, after, and with random rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from precise_shield.core.summary import Measure
from precise_shield.report.numbers.tables import MEASURE_NAMES
from precise_shield.report.numbers.view import Contrast, View
from precise_shield.report.numbers.words import number, percent, span
from precise_shield.report.safety.headline import benign_measure, share_text


@dataclass(frozen=True)
class Tile:
    """A key number before and after, with its intervals and the control beside it."""

    title: str
    before: str
    after: str
    company: str
    control: str
    note: str


def tiles(view: View) -> list[Tile]:
    """The key numbers: before, after, and with random rows."""
    base, aligned = view.first("base"), view.first("aligned")
    if base is None or aligned is None:
        return []
    control = view.first("random_rows")
    measures: Sequence[tuple[Measure, str]] = (
        ("attack_success", "lower is safer"),
        ("refusal_matched", "lower is better"),
        ("refusal_ordinary", "lower is better"),
        ("benign_correct", "higher is better"),
    )
    found = []
    for measure, note in measures:
        before, after = (view.rate(name, measure) for name in (base.name, aligned.name))
        if before is None or after is None:
            continue
        random = None if control is None else view.rate(control.name, measure)
        ends = " → ".join(span(e.low, e.high) or "undefined" for e in (before, after))
        company = f"{ends} n={after.n} unscored={after.unscored}"
        beside = "no control" if random is None else f"{view.beside} {share_text(random)}"
        title = MEASURE_NAMES[measure]
        found.append(
            Tile(title, percent(before.value), percent(after.value), company, beside, note)
        )
    gap = _gap_tile(view, base.name, aligned.name, None if control is None else control.name)
    return found[:1] + ([gap] if gap else []) + found[1:]


def _gap_tile(view: View, base: str, aligned: str, control: str | None) -> Tile | None:
    benign = benign_measure(view, aligned)
    before, after = view.gap(base, benign), view.gap(aligned, benign)
    if before is None or after is None:
        return None
    kind = "matched benign" if benign == "refusal_matched" else "benign"
    random = None if control is None else view.gap(control, benign)
    ends = " → ".join(span(e.low, e.high) or "undefined" for e in (before, after))
    return Tile(
        f"Refusal gap, harmful minus {kind}",
        number(100 * before.value, 1),
        number(100 * after.value, 1),
        f"{ends} points n={after.n} unscored={after.unscored}",
        "no control" if random is None else f"{view.beside} {gap_text(random)}",
        "higher is better: the primary measure",
    )


def gap_text(gap: Contrast) -> str:
    """A refusal gap as `82.4 [80, 84]`, in points."""
    return f"{number(100 * gap.value, 1)} {span(gap.low, gap.high)}".strip()

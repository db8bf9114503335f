"""The figures on safety and its cost; each carries the table that says the same in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan

from markupsafe import Markup

from precise_shield.core.records import Modality
from precise_shield.core.summary import Condition, ConditionKind, Measure, Readout
from precise_shield.report.drawing.charts import PLOT, Lane, Mark, Square, heat_map, marks_plot
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.drawing.svg import linear, unit
from precise_shield.report.numbers.tables import (
    MEASURE_NAMES,
    MEASURES,
    Rows,
    Table,
    conditions_table,
    contrast_table,
    p_entry,
    rates_table,
    real,
    table,
    whole,
)
from precise_shield.report.numbers.view import Contrast, Estimate, View
from precise_shield.report.numbers.words import (
    UNDEFINED,
    known,
    language_name,
    modality_name,
    p_text,
    percent,
    signed,
)

GLYPHS: dict[ConditionKind, str] = {
    "base": "base",
    "aligned": "aligned",
    "random_rows": "random",
    "benign_rows": "random",
    "frozen_a": "aligned",
    "lora": "random",
    "full": "random",
    "amplified": "aligned",
    "random_amplified": "random",
    "suppressed": "suppressed",
    "random_suppressed": "random",
    "zero_shot": "zero",
    "zero_shot_random": "random",
    "assembled": "zero",
    "assembled_random": "random",
    "damped": "aligned",
    "random_damped": "random",
    "defence": "defence",
    "served": "defence",
}


def short_percent(value: float) -> str:
    """A whole percentage without its sign; `<1` and `>99` where rounding would say 0 or 100."""
    return percent(value, 0).removesuffix("%") if isfinite(value) else "undef."


def rate_maps(
    view: View, conditions: Sequence[Condition], name: str, title: str, lead: str
) -> Figure | None:
    """Attack success, language x modality, a panel a condition. None without any rates."""
    measured = [c for c in conditions if view.rate(c.name, "attack_success") is not None]
    if not measured:
        return None
    panels = [Panel(c.label, _rate_map(view, c, "attack_success")) for c in measured]
    numbers = rates_table(view, "attack_success", [c.name for c in measured])
    return Figure(name, title, lead, tuple(panels), numbers)


def _rate_map(view: View, condition: Condition, measure: Measure) -> Markup:
    groups: list[tuple[str, list[str]]] = [(language_name(la), [la]) for la in view.languages]
    gap = len(groups)
    if view.high_resource and view.others:
        two = ((" + ".join(view.high_resource), view.high_resource), ("others", view.others))
        groups += [group for group in two if len(group[1]) > 1]
    if len(view.languages) > 1:
        groups.append(("all", view.languages))
    columns: list[tuple[str, list[Modality]]] = [(modality_name(m), [m]) for m in view.modalities]
    if len(columns) > 1:
        columns.append(("all", view.modalities))
    squares = [
        [
            _square(_group_rate(view, condition.name, measure, las, mos), f"{row}, {column}")
            for column, mos in columns
        ]
        for row, las in groups
    ]
    label = f"{MEASURE_NAMES[measure]}, {condition.label}, by language and modality"
    names = [row for row, _ in groups]
    return heat_map(label, names, [c for c, _ in columns], squares, "risk", (gap,))


def _group_rate(
    view: View, name: str, measure: Measure, languages: list[str], modalities: list[Modality]
) -> Estimate | None:
    """A cell or a pooled row as the summary has it, otherwise the sum of the group's cells."""
    one_language = languages[0] if len(languages) == 1 else None
    one_modality = modalities[0] if len(modalities) == 1 else None
    if len(languages) == 1 or languages == view.languages:
        return view.rate(name, measure, one_language, one_modality)
    return view.pooled(name, measure, languages, modalities)


def _square(estimate: Estimate | None, where: str) -> Square:
    if estimate is None:
        return Square(nan, "–", tip=f"{where}: not measured")
    if not estimate.defined:
        return Square(nan, "undef.", f"0 of {estimate.unscored}", f"{where}: {estimate}")
    ends = f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f}"
    return Square(estimate.value, short_percent(estimate.value), ends, f"{where}: {estimate}")


def measures_figure(view: View) -> Figure:
    """Every measure, pooled, for every condition: what safety cost."""
    panels = []
    for measure in MEASURES:
        lanes, tops = [], [0.0]
        for c in view.summary.conditions:
            estimate = view.rate(c.name, measure)
            if estimate is not None:
                mark = _mark(GLYPHS[c.kind], estimate, c.label)
                lanes.append(Lane(_brief(c), (mark,), _end(estimate.value)))
                tops.append(estimate.high if estimate.defined else 0.0)
        if lanes:
            title = MEASURE_NAMES[measure]
            small = max(tops) < 0.4
            axis = linear([max(0.1, *tops)], *PLOT, percent=True) if small else unit(*PLOT)
            panels.append(Panel(title, marks_plot(title, lanes, axis, unit="%")))
    return Figure(
        "measures",
        "Safety beside its cost",
        "Low attack success is worth having only while benign requests are still answered;"
        " scales differ.",
        tuple(panels),
        conditions_table(view),
    )


_BRIEF: dict[ConditionKind, str] = {
    "base": "untouched",
    "aligned": "tuned",
    "random_rows": "random rows",
    "benign_rows": "benign rows",
    "frozen_a": "A frozen",
    "lora": "plain LoRA",
    "full": "full",
    "amplified": "amplified",
    "random_amplified": "random up",
    "suppressed": "suppressed",
    "random_suppressed": "random off",
    "zero_shot": "zero-shot",
    "zero_shot_random": "its random",
    "assembled": "put together",
    "assembled_random": "its random",
    "damped": "damped",
    "random_damped": "random down",
    "defence": "defence",
    "served": "served",
}


_BRIEF_SCOPES = {
    "prompt": "input",
    "context": "context",
    "first-decision": "1st",
    "response": "reply",
}
"""Where a scoped edit acts, as short as a lane's label has to be."""


def _brief(condition: Condition) -> str:
    if condition.kind in ("defence", "served"):
        return condition.label
    for scope, where in _BRIEF_SCOPES.items():
        if condition.kind in ("damped", "random_damped") and condition.name.endswith(f"-{scope}"):
            return f"{'damped' if condition.kind == 'damped' else 'random'} {where}"
    return _BRIEF[condition.kind]


def _end(value: float) -> str:
    return percent(value, 0) if isfinite(value) else "undef."


def _mark(
    kind: str, estimate: Estimate | Contrast, who: str, lane: int = 0, faint: bool = False
) -> Mark:
    tip = f"{who}: {estimate}"
    return Mark(kind, estimate.value, estimate.low, estimate.high, tip, lane, faint)


def forest_figure(view: View) -> Figure | None:
    """Change of attack success against the untouched model, beside the random-row control."""
    base, aligned = view.first("base"), view.first("aligned")
    if base is None or aligned is None:
        return None
    controls = view.of_kind("random_rows")
    arms = [aligned, *controls]
    whom: list[str | None] = [*view.languages]
    whom += [None] if len(whom) > 1 else []
    rows = [(language, modality) for modality in view.modalities for language in whom]
    changes = {
        (arm.name, language, modality): view.change(
            arm.name, base.name, "attack_success", language, modality
        )
        for arm in arms
        for language, modality in rows
    }
    found = [change for change in changes.values() if change is not None and change.defined]
    if not found:
        return None
    axis = linear([edge for c in found for edge in (c.low, c.high)], *PLOT, percent=True)
    panels = []
    for modality in view.modalities:
        lanes = [
            _forest_lane(language, [(arm, changes[arm.name, language, modality]) for arm in arms])
            for language in whom
        ]
        label = f"Change of attack success, {modality_name(modality)}"
        plot = marks_plot(label, lanes, axis, 2 if controls else 1, "points", "change")
        panels.append(Panel(modality_name(modality), plot))
    pairs = [(arm.name, base.name) for arm in arms]
    pairs += [(aligned.name, control.name) for control in controls]
    legend = [("aligned", f"{aligned.label} minus {base.label}")]
    legend += [("random", f"{control.label} minus {base.label}") for control in controls[:1]]
    return Figure(
        "forest",
        f"Change of attack success, and with {view.beside}",
        "Left of zero is safer; the figure at the end of a row is the change of the main"
        f" alignment. The choice of neurons matters only as far as it goes beyond {view.beside}.",
        tuple(panels),
        contrast_table(view, "attack_success", pairs),
        tuple(legend),
    )


def _forest_lane(language: str | None, arms: list[tuple[Condition, Contrast | None]]) -> Lane:
    seeds = sum(arm.kind == "random_rows" for arm, _ in arms)
    marks = []
    for arm, change in arms:
        if change is None:
            continue
        if arm.kind == "random_rows" and seeds > 1:
            tip = f"{arm.label}: {change}"
            marks.append(Mark("random", change.value, tip=tip, lane=1, faint=True))
        else:
            lane = 0 if arm.kind == "aligned" else 1
            marks.append(_mark(GLYPHS[arm.kind], change, arm.label, lane))
    first = arms[0][1]
    end = "" if first is None else "undef." if not first.defined else signed(100 * first.value, 0)
    name = "all" if language is None else language_name(language)
    return Lane(name, tuple(marks), end, strong=language is None)


def suppression_figure(view: View) -> Figure | None:
    """First-token refusal log-odds with the set off, against matched random sets off."""
    check = view.summary.verification
    readouts = [] if check is None else [r for r in check.readouts if known(r.base, r.suppressed)]
    if check is None or not check.readouts:
        return None
    axis = linear(
        [v for r in readouts for v in (r.base, r.suppressed, *r.random)], *PLOT, zero=False
    )
    order = {code: k for k, code in enumerate(view.languages)}
    panels = []
    for modality in [*view.modalities, None]:
        rows = [r for r in check.readouts if r.modality == modality]
        rows.sort(key=lambda r: (r.language is None, order.get(r.language or "", len(order))))
        if rows:
            title = modality_name(modality)
            lanes = [_readout_lane(r) for r in rows]
            if modality is None and check.refused is not None:
                lanes.append(_readout_lane(check.refused, REFUSED_BEFORE))
            label = f"Refusal log-odds with the set suppressed, {title}"
            panels.append(Panel(title, marks_plot(label, lanes, axis, 1, "log-odds", "p (Holm)")))
    sets = max(len(r.random) for r in check.readouts)
    return Figure(
        "suppression",
        "Refusal log-odds with the neurons switched off",
        f"If the set carries refusal, switching it off moves the triangle left of all"
        f" {sets} random sets; p of the pooled rows is not corrected.",
        tuple(panels),
        readout_table(view),
        (
            ("base", "untouched"),
            ("suppressed", "safety set suppressed"),
            ("ticks", "matched random sets suppressed"),
        ),
    )


REFUSED_BEFORE = "refused ones"
"""Prompts that the untouched model begins to refuse."""


def _readout_lane(r: Readout, name: str | None = None) -> Lane:
    where = name or f"{language_name(r.language)}, {modality_name(r.modality)}"
    marks = (
        Mark("base", r.base, tip=f"{where}: untouched {r.base:.2f}"),
        Mark("suppressed", r.suppressed, tip=f"{where}: suppressed {r.suppressed:.2f}"),
    )
    tip = f"{where}: {len(r.random)} random sets"
    name = name or ("all" if r.language is None else language_name(r.language))
    end = p_text(r.p_holm if r.p_holm is not None else r.p_value).replace(UNDEFINED, "undef.")
    return Lane(name, marks, end, r.language is None, tuple(r.random), tip)


def readout_table(view: View) -> Table:
    """Suppression against its random sets, in numbers."""
    check = view.summary.verification
    rows: Rows = []
    found = [(language_name(r.language), r) for r in check.readouts] if check else []
    if check and check.refused is not None:
        found.append((REFUSED_BEFORE, check.refused))
    for place, r in found:
        random = [value for value in r.random if isfinite(value)]
        mean = sum(random) / len(random) if random else nan
        low, high = (min(random), max(random)) if random else (nan, nan)
        as_low = sum(value <= r.suppressed for value in random)
        rows.append(
            [
                place, modality_name(r.modality), whole(r.n),
                real(r.base), real(r.suppressed), real(mean), real(low), real(high),
                f"{as_low} of {len(random)}", p_entry(r.p_value), p_entry(r.p_holm),
            ]
        )  # fmt: skip
    columns = [
        "language", "modality", "n", "untouched", "suppressed", "random, mean", "random, lowest",
        "random, highest", "random sets as low", "p", "p (Holm)",
    ]  # fmt: skip
    return table(
        "Log-odds of refusal at the first response token",
        columns,
        rows,
        note="p counts random sets that lower the log-odds at least as much as the safety set;"
        f" {REFUSED_BEFORE}: prompts with log-odds above 0 in the untouched model.",
    )

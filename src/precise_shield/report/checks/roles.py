"""Deciding or writing: what each set's readouts say, drawn, tabled and in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from precise_shield.core.summary import Causal, Component, Role
from precise_shield.report.drawing.charts import PLOT, Lane, Mark, marks_plot
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.drawing.svg import Axis, linear
from precise_shield.report.numbers.finding import Finding, Tone
from precise_shield.report.numbers.tables import Rows, Table, p_entry, real, table, whole
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import count, number, p_text, percent

SCOPES = {
    "prompt": "off at the prompt",
    "context": "off at the prompt but its last token",
    "response": "off while answering",
}
COMPONENTS = {
    "refusal": "refusal",
    "judging": "judging",
    "continuation": "going on",
    "copying": "copying",
    "apology": "apology",
}


def role_findings(view: View) -> list[Finding]:
    """Deciding or writing, one finding a set."""
    check = view.summary.verification
    tones: dict[str, Tone] = {"deciding": "good", "both": "good"}
    return [
        Finding(
            "Deciding or writing",
            tones.get(role.verdict, "unclear"),
            f"{role.of} ({count(role.neurons)} neurons): {role.verdict}. {role.reason}."
            f"{_judged(role)}",
        )
        for role in (check.causal.roles if check else [])
    ]


def _judged(role: Role) -> str:
    seen = role.judged
    if seen is None:
        return ""
    random = ", ".join(percent(value) for value in seen.random)
    return (
        f" Judged refusal of harmful prompts with the set off at the prompt:"
        f" {percent(seen.suppressed)} against {percent(seen.base)} untouched and {random} with"
        f" random sets off, n={seen.n} unscored={seen.unscored}."
    )


def roles_figure(found: Causal) -> Figure | None:
    """Change of every readout, a panel a set and place; None where nothing was judged."""
    if not found.roles:
        return None
    panels = []
    for role in found.roles:
        for scope in ("prompt", "response"):
            rows = [c for c in role.components if _drawn_in(c) == scope and c.able]
            if rows:
                panels.append(_role_panel(role, rows, scope))
    return Figure(
        "roles",
        "Deciding or writing",
        "Change of each readout with a set switched off. A deciding set moves refusal and judging"
        " when it is off at the prompt, and nothing that is merely written; a writing set moves"
        " going on with a refusal, copying one and apologising when it is off while answering."
        " “before last” spares the prompt's last token, at which the first word is written.",
        tuple(panels),
        _roles_table(found.roles),
        (("suppressed", "this set off"), ("ticks", "matched random sets off")),
    )


def _drawn_in(component: Component) -> str:
    return "prompt" if component.scope == "context" else component.scope


def _role_panel(role: Role, rows: Sequence[Component], scope: str) -> Panel:
    changes = [v - c.base for c in rows if c.base is not None for v in (*c.random, c.suppressed)
               if v is not None]  # fmt: skip
    title = f"{role.of}: {role.verdict}; {SCOPES[scope]}"
    lanes = [_role_lane(component) for component in rows]
    return Panel(title, marks_plot(title, lanes, _wide(changes), 1, "change, nats", "p (Holm)"))


def _wide(values: Sequence[float]) -> Axis:
    return linear(values, *PLOT)


def _role_lane(c: Component) -> Lane:
    base = nan if c.base is None else c.base
    change = nan if c.suppressed is None else c.suppressed - base
    name = "before last" if c.scope == "context" else COMPONENTS[c.name]
    tip = f"{name}: {number(base)} untouched, {number(c.suppressed)} {SCOPES[c.scope]}, n={c.n}"
    p = c.p_holm if c.p_holm is not None else c.p_value
    strip = tuple(value - base for value in c.random)
    mark = Mark("suppressed", change, tip=tip)
    return Lane(name, (mark,), p_text(p), False, strip, f"{len(strip)} random sets")


def _roles_table(roles: Sequence[Role]) -> Table:
    rows: Rows = []
    for role in roles:
        for c in role.components:
            random = sum(c.random) / len(c.random) if c.random else None
            shares = " to ".join(percent(v, 0) for v in c.share) if c.share else ""
            rows.append(
                [
                    role.of, role.verdict, COMPONENTS[c.name], SCOPES[c.scope], whole(c.n),
                    real(c.base), real(c.suppressed), real(random), shares, p_entry(c.p_value),
                    p_entry(c.p_holm), c.note or "measured",
                ]
            )  # fmt: skip
    columns = [
        "set", "verdict", "readout", "switched", "n", "untouched", "suppressed", "random, mean",
        "right", "p", "p (Holm)", "note",
    ]  # fmt: skip
    return table("Deciding or writing, by readout", columns, rows)

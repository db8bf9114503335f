"""Does a set decide to refuse, or write refusals? The verdict, from readouts and their controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan

from precise_shield.core.summary import Component, Role
from precise_shield.core.summary.causal import ComponentName, ComponentScope, Verdict
from precise_shield.evaluate.counting.statistics import holm

LEVEL = 0.05
MATERIAL = 0.05
"""Nats that a readout has to fall by: where hardly anything moves, a trifle beats random sets."""


def falls(component: Component) -> bool:
    """Whether suppression lowers a readout, by a visible amount and beyond random sets."""
    p = component.p_holm if component.p_holm is not None else component.p_value
    if not component.able or p is None or component.base is None or component.suppressed is None:
        return False
    return p <= LEVEL and component.base - component.suppressed >= MATERIAL


def corrected(tested: Sequence[Sequence[Component]]) -> list[list[Component]]:
    """Holm's correction of every readout over the sets that were tested.

    Within a set nothing is corrected: a verdict asks several readouts to fall together, and an
    intersection of tests, each at the level, keeps it (Berger 1982, Technometrics 24, 295-300).
    """
    rows = [list(components) for components in tested]
    for column in range(len(rows[0]) if rows else 0):
        p_values = [row[column].p_value if row[column].able else None for row in rows]
        adjusted = holm([nan if p is None else p for p in p_values])
        for row, p in zip(rows, adjusted, strict=True):
            update = {"p_holm": None if p != p else p}
            row[column] = row[column].model_copy(update=update)
    return rows


def judged(components: Sequence[Component]) -> tuple[Verdict, str]:
    """The verdict on one set, and one sentence why.

    It *decides* if suppressing it at the prompt lowers the refusal log-odds and the model's own
    judgement of what is safe. Without such a judgement to measure, the log-odds have to fall
    with the last prompt position spared, or with copied refusals and apologies spared: a neuron
    that only writes the first word of a refusal acts at that position, and writes it there too.
    It *writes* if suppressing it while answering makes most of these unlikely: the rest of a
    refusal that has begun, a refusal that is to be copied, and a benign apology.

    Source: none; the question is left open by Precise Shield and SS-Neurons.
    """
    found = {(c.name, c.scope): c for c in components}
    refusal = found.get(("refusal", "prompt"))
    if refusal is None or not refusal.able:
        why = "was not read" if refusal is None else refusal.note
        return "not testable", f"there is no refusal to lose: {why}"
    written = [c for c in components if c.scope == "response" and c.able]
    if not written:
        return "not testable", "nothing that the model writes could be measured"
    fallen = [c.name for c in written if falls(c)]
    writes = 2 * len(fallen) > len(written)
    judging = found.get(("judging", "prompt"))
    judges = judging is not None and judging.able
    loses_judgement = judging is not None and falls(judging)
    decides = _decides(found, judges, loses_judgement)
    reads = _reads(found, judges, loses_judgement)
    writing = f"while answering {len(fallen)} of {len(written)} kinds of text become unlikely"
    why = f"{reads}; {writing}"
    if decides is None:
        return "not testable", f"{why}; whether the set decides cannot be told"
    others = [c.name for c in components if c.scope == "prompt" and c.name in _TEXTS and falls(c)]
    if decides and not writes and others:
        return "both", f"{why}; at the prompt it also lowers {', '.join(others)}"
    if decides or (writes and loses_judgement):
        return ("both" if writes else "deciding"), why
    return ("writing" if writes else "neither"), why


_TEXTS = {"continuation", "copying", "apology"}


def _decides(
    found: Mapping[tuple[ComponentName, ComponentScope], Component],
    judges: bool,
    loses_judgement: bool,
) -> bool | None:
    """None where no readout can tell deciding from writing the first word."""
    if not falls(found["refusal", "prompt"]):
        return False
    if judges:
        return loses_judgement
    context = found.get(("refusal", "context"))
    if context is not None and falls(context):
        return True
    beside = [found.get(("copying", "prompt")), found.get(("apology", "prompt"))]
    able = [c for c in beside if c is not None and c.able]
    if not able:
        return None
    return not any(falls(c) for c in able)


def _reads(
    found: Mapping[tuple[ComponentName, ComponentScope], Component],
    judges: bool,
    loses_judgement: bool,
) -> str:
    moved = "fall" if falls(found["refusal", "prompt"]) else "do not fall"
    text = f"at the prompt the refusal log-odds {moved} beyond random sets"
    if not judges:
        return f"{text}, and no judgement of what is safe could be measured"
    if loses_judgement:
        return f"{text}, and the model's own judgement of what is safe gets worse"
    return f"{text}, and its own judgement of what is safe stays"


def verdicts(
    tested: Sequence[tuple[str, int, Sequence[Component]]],
) -> list[Role]:
    """One role a tested set `(name, neurons, components)`, corrected over the sets."""
    rows = corrected([components for *_, components in tested])
    roles = []
    for (name, size, _), components in zip(tested, rows, strict=True):
        verdict, reason = judged(components)
        roles.append(
            Role(of=name, neurons=size, verdict=verdict, reason=reason, components=components)
        )
    return roles

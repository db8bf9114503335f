"""Claims on damped neurons, and on answers put together from several trainings."""

from __future__ import annotations

from precise_shield.core.summary import Claim
from precise_shield.workflows.claims.papers import (
    ELSEWHERE,
    PS,
    hits_of,
    names_of_kind,
    points_of,
    sign_of,
)
from precise_shield.workflows.evaluate.stage import Evaluation

SGM = "SGM, arXiv 2512.15052"
SS = "SS-Neurons, arXiv 2602.01283"


def further_claims(found: Evaluation) -> list[Claim]:
    """Every further claim that the run's conditions speak to, each beside its random control."""
    kinds = {condition.name: condition.kind for condition in found.conditions}
    rows = []
    for name, kind in kinds.items():
        if kind == "damped":
            tail = name.removeprefix("damped")
            controls = [f"random-damped-{i}{tail}" for i in range(len(kinds))]
            rows.append(_beyond(found, name, [c for c in controls if c in kinds], _DAMPED, SGM))
        elif kind == "assembled" and name.startswith("left-out-"):
            words = f"What was left out of training ({name.removeprefix('left-out-')}) is refused"
            words += " more all the same, and more than after tuning random rows alike"
            controls = [c for c in names_of_kind(found, "assembled_random") if c.startswith(name)]
            rows.append(_beyond(found, name, controls, words, SS))
        elif kind == "assembled" and "aligned" in kinds:
            words = f"One training each ({name}) lowers attack success more than one for all"
            rows.append(_beyond(found, name, ["aligned"], words, PS))
    return rows


_DAMPED = (
    "Damping the neurons that go with complied answers lowers attack success, and more than"
    " damping random neurons alike"
)


def _beyond(found: Evaluation, name: str, controls: list[str], words: str, source: str) -> Claim:
    effect = found.compared("attack_success", name, "base")
    beyond = [found.compared("attack_success", name, control) for control in controls]
    verdicts = [sign_of(each, -1) for each in (effect, *beyond)]
    agreed = verdicts[0] if len(set(verdicts)) == 1 else "unclear"
    if "does not hold" in verdicts:
        agreed = "does not hold"
    if not controls or not hits_of(found, "attack_success"):
        agreed = "not testable"
    beside = "; ".join(
        f"{points_of(each)} against {control}"
        for each, control in zip(beyond, controls, strict=True)
    )
    return Claim(
        claim=f"{words} ({name})" if "damped" in name else words,
        source=source,
        reported=ELSEWHERE,
        measured=f"{points_of(effect)} against base; {beside or 'no control'}",
        verdict=agreed,
    )

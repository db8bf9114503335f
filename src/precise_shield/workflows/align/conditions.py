"""States with an arm's rows in place, or with neurons at zero."""

from __future__ import annotations

from precise_shield.align.sparse import applied
from precise_shield.core.sites import NeuronSet
from precise_shield.core.store import digest
from precise_shield.core.summary import Condition
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.workflows.align.arms import Arm
from precise_shield.workflows.answer.states import State
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.controls import control
from precise_shield.workflows.identify.stage import Atlas


def aligned_state(arm: Arm) -> State:
    """The model with an arm's rows in place, taken out again afterwards bit for bit."""
    delta = arm.delta()
    return State(arm.condition, lambda bound: applied(bound, delta), {"state": arm.made_by})


def suppressed_states(run: Run, atlas: Atlas) -> list[State]:
    """The chosen neurons at zero, and matched random ones."""
    chosen = Condition(
        name="suppressed",
        kind="suppressed",
        label="safety neurons at zero",
        note=f"{len(atlas.neurons)} neurons of {atlas.chosen}; in memory only",
    )
    states = [_suppressing(chosen, atlas.neurons)]
    for seed in range(run.config.evaluate.random_suppressions):
        drawn = control(run, atlas, atlas.neurons, seed)
        beside = Condition(
            name=f"random-suppressed-{seed}",
            kind="random_suppressed",
            label="random neurons at zero" + (f", seed {seed}" if seed else ""),
            note="as many other neurons of the same layers; in memory only",
        )
        states.append(_suppressing(beside, drawn))
    return states


def _suppressing(condition: Condition, neurons: NeuronSet) -> State:
    return State(
        condition,
        lambda bound: intervening(bound, neurons, suppress),
        {"state": "suppressed", "neurons": digest(neurons.to_json())},
    )

"""SGM: the neurons that go with harmful answers of the model's own, softly suppressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.align.amplify import COUNTS, FORM
from precise_shield.align.damp import damped, factors_of
from precise_shield.align.receipt import StoredReceipt, make_receipt, seal
from precise_shield.align.sparse import applied
from precise_shield.core.errors import ConfigError
from precise_shield.core.records import Cell
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.store import Stage, digest
from precise_shield.core.summary import Condition
from precise_shield.identify.crossed import COMPLIED, REFUSED
from precise_shield.identify.select import Contrast, Part, evaluate, require
from precise_shield.identify.stats import Stats
from precise_shield.intervene.edits import damp, intervening
from precise_shield.workflows.align.arms import FILES, Arm, keep, read_arm, recipe_of, written
from precise_shield.workflows.answer.states import State
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.controls import control
from precise_shield.workflows.identify.stage import Atlas, selection


def damping_arms(run: Run, atlas: Atlas) -> list[Arm]:
    """The damped neurons as a change of columns, and matched random ones damped alike.

    Raises:
        ConfigError: nothing was read of the model's own answers, or the set is not of them.
        EmptySetError: no neuron goes with complied answers.
    """
    if not run.config.align.damp.on:
        return []
    return [
        _made(run, condition, neurons, factors)
        for condition, neurons, factors in _planned(run, atlas)
    ]


def damping_states(run: Run, atlas: Atlas) -> list[State]:
    """The same as scoped edits at inference (`align.damp.scopes`), in memory only."""
    states = []
    for scope in run.config.align.damp.scopes if run.config.align.damp.on else []:
        for condition, neurons, factors in _planned(run, atlas):
            here = {site: factors[site][list(ids)] for site, ids in neurons.units.items()}
            words = {
                "name": f"{condition.name}-{scope.replace('_', '-')}",
                "label": f"{condition.label} at {scope} positions",
            }
            key = {site_name: values.tolist() for site_name, values in _named(here).items()}
            states.append(
                State(
                    condition.model_copy(update=words),
                    lambda bound, neurons=neurons, here=here, scope=scope: intervening(  # type: ignore[misc]
                        bound, neurons, damp(here), scope
                    ),
                    {"state": "damped", "neurons": digest([neurons.to_json(), key, scope])},
                )
            )
    return states


def _named(values: Mapping[Site, Tensor]) -> dict[str, Tensor]:
    return {str(site): value for site, value in values.items()}


Planned = tuple[Condition, NeuronSet, dict[Site, Float[Tensor, " width"]]]


def _planned(run: Run, atlas: Atlas) -> list[Planned]:
    section = run.config.align.damp
    neurons, told = driving(run, atlas)
    factors = factors_of(told, section.strength)
    note = f"strength {section.strength:g}, weighted by how well a neuron tells the two apart"
    chosen = Condition(
        name="damped",
        kind="damped",
        label="neurons of harmful output damped",
        note=f"{len(neurons)} neurons of {section.chosen}; {note}",
    )
    planned: list[Planned] = [(chosen, neurons, factors)]
    for seed in range(section.random_seeds):
        drawn = control(run, atlas, neurons, seed)
        beside = Condition(
            name=f"random-damped-{seed}",
            kind="random_damped",
            label="random neurons damped" + (f", seed {seed}" if seed else ""),
            note="as many other neurons of the same layers, by the same factors",
        )
        alike = dict(factors)
        for site, ids in drawn.units.items():
            alike[site] = torch.ones_like(factors[site])
            mine = factors[site][list(neurons.units[site])]
            alike[site][list(ids)] = mine[: len(ids)]
        planned.append((beside, drawn, alike))
    return planned


def driving(run: Run, atlas: Atlas) -> tuple[NeuronSet, dict[Site, Float[Tensor, " width"]]]:
    """The set that is damped, of `complied` sets alone and never of the safety set, and expertise.

    Raises:
        ConfigError: the expression names another set, or own answers were not read.
        EmptySetError: nothing is left.
    """
    which = run.config.align.damp.chosen
    words = which.replace("(", " ").replace(")", " ").split()
    odd = [word for word in words if word not in "&|-" and not word.startswith("complied")]
    if odd:
        raise ConfigError(
            f"align.damp.chosen names {odd[0]!r}. Damping weakens what a neuron writes, so only"
            " sets of neurons that go with complied answers may be damped: complied, or"
            " complied:<language>/<modality>."
        )
    if "complied" not in atlas.sets:
        raise ConfigError(
            "damping needs the model's own refused and complied answers to harmful probing"
            " prompts, at least two of each in a language; set identify.responses: own_refused."
        )
    found = evaluate(which, atlas.sets) - atlas.neurons - atlas.sets["all"]
    told = expertise(run)  # scores are sizes: half of what they find goes with refusals
    driven = {
        site: [unit for unit in units if told[site][unit] > 0.5]
        for site, units in found.units.items()
    }
    return require(which, NeuronSet.of(driven), atlas.sets), told


def expertise(run: Run) -> dict[Site, Float[Tensor, " width"]]:
    """How well a unit's higher activation tells complied from refused answers: an AUROC.

    In [0.5, 1]: a unit that is higher in refusals has 0.5, and is not to be damped. Two normal
    distributions at a distance of d pooled standard deviations have the AUROC `Phi(d / sqrt 2)`;
    only means and variances are streamed. Languages and modalities that have both kinds of answer
    weigh the same.
    """
    stats, choice = collect_stats(run).stats(), replace(selection(run), score="effect_size")
    parts: dict[str, list[Part]] = {REFUSED: [], COMPLIED: []}
    site = min(stats.norms)
    for cell in stats.cells:
        if cell.harm != "harmful" or not _both(run, stats, site, cell):
            continue
        for variant, kept in parts.items():
            kept.append(Part(Cell(cell.language, cell.modality, "harmful"), variant))
    contrast = Contrast("complied", tuple(parts[COMPLIED]), tuple(parts[REFUSED]))
    found = {}
    for site in stats.norms:
        one, two = contrast.arms(stats, site, choice)
        weight = one.count + two.count - 2
        var = ((one.count - 1) * one.var + (two.count - 1) * two.var) / weight
        gap = torch.where(var > 0, (one.mean - two.mean) / var.clamp_min(1e-30).sqrt(), 0.0)
        found[site] = (0.5 * (1 + torch.erf(gap.clamp(min=0) / 2)))[0].float()
    return found


def _both(run: Run, stats: Stats, site: Site, cell: Cell) -> bool:
    position = run.config.identify.position
    return all(
        stats.collected(site, position, f"activation{variant}", "")
        and int(stats.at(site, cell, position, f"activation{variant}").count.sum()) >= 2
        for variant in (REFUSED, COMPLIED)
    )


def _made(
    run: Run,
    condition: Condition,
    neurons: NeuronSet,
    factors: Mapping[Site, Float[Tensor, " width"]],
) -> Arm:
    here = {str(s): factors[s][list(ids)].tolist() for s, ids in neurons.units.items()}
    made_by = run.made_by([], neurons=digest(neurons.to_json()), damped=digest(here), files=FILES)
    stage = run.store.stage("align", made_by)
    with run.working(stage, f"{condition.name}: {len(neurons)} neurons") as todo:
        if todo:
            _write(run, stage, neurons, factors)
    return read_arm(run, condition, neurons, stage)


def _write(
    run: Run, stage: Stage, neurons: NeuronSet, factors: Mapping[Site, Float[Tensor, " width"]]
) -> None:
    bound = run.bound
    before, delta = seal(bound, neurons, FORM), damped(bound, neurons, factors)
    with applied(bound, delta):
        receipt = make_receipt(
            bound, before, delta, FORM, COUNTS,
            condition="", steps=0, learning_rate=0.0, final_loss=None,
        )  # fmt: skip
    strength = run.config.align.damp.strength
    recipe = {**recipe_of(run, delta, None), "strength": strength}
    stored = StoredReceipt(receipt, before, neurons, FORM, written(delta))
    keep(stage, replace(delta, recipe=recipe), stored)

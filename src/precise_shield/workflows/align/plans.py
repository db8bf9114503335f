"""Which trainings a run makes: the chosen neurons, and what they are compared with."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from precise_shield.align.delta import AllParameters, DirectUnits, Form, LoraRows
from precise_shield.align.slices import slices_of
from precise_shield.core.errors import ConfigError, EmptyCellError, EmptySetError
from precise_shield.core.records import Example, Modality
from precise_shield.core.sites import FEED_FORWARD, NeuronSet
from precise_shield.core.summary import Condition
from precise_shield.identify.select import Draws, contrast, evaluate, named_sets, require, whole
from precise_shield.workflows.align.pairs import rejected_answers
from precise_shield.workflows.align.parts import parts_of, trained_on
from precise_shield.workflows.base.context import Run, wanted
from precise_shield.workflows.base.sections.align import AlignSection, ArmName, ZeroShotSection
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.controls import control
from precise_shield.workflows.identify.stage import Atlas, selection


@dataclass(frozen=True)
class Plan:
    """One arm before it is made."""

    condition: Condition
    neurons: NeuronSet
    rows: list[Example]
    form: Form | None
    """None amplifies without training."""

    like: str
    """Name of the arm whose validation search settles the settings; often its own."""

    rejected: Mapping[str, str] = field(default_factory=dict)
    """Per example, the answer that its target is set above; empty without pairs."""


def plans(run: Run, atlas: Atlas) -> list[Plan]:
    """Every arm of the configuration, the chosen neurons first, each beside its control.

    Raises:
        EmptyCellError: no training rows are left for an arm.
        EmptySetError: there are no neurons for an arm.
    """
    section = run.config.align
    rows = rows_of(run, section.languages, section.modalities)
    form = form_of(run)
    tuned = Condition(
        name="aligned",
        kind="aligned",
        label="safety neurons tuned",
        note=f"{len(atlas.neurons)} neurons of {atlas.chosen}, {len(rows)} rows",
    )
    made = [Plan(tuned, atlas.neurons, rows, form, "aligned")]
    for seed in range(section.random_seeds):
        beside = Condition(
            name=f"random-rows-{seed}",
            kind="random_rows",
            label="random neurons tuned" + (f", seed {seed}" if seed else ""),
            note="as many other neurons of the same layers, same rows, same budget",
        )
        drawn = control(run, atlas, atlas.neurons, seed)
        made.append(Plan(beside, drawn, rows, form, "random-rows-0"))
    for name in section.arms:
        made += _further(run, atlas, name, rows, form)
    for part in parts_of(run):
        made += _zero_shot(run, atlas, part, form)
    if section.polarity == "rest":
        made = [_turned(plan, atlas) for plan in made]
    return made if section.objective == "nll" else _paired(run, made)


TURNED = ("aligned", "random_rows", "benign_rows", "zero_shot", "zero_shot_random")
"""Kinds of condition whose neurons are frozen, and all others trained, with `polarity: rest`."""


def _turned(plan: Plan, atlas: Atlas) -> Plan:
    """The same arm with its neurons frozen and every other one trained, directly; or as it is."""
    if plan.condition.kind not in TURNED:
        return plan
    every = NeuronSet.of({site: range(width) for site, width in atlas.widths.items()})
    words = {"label": f"all but: {plan.condition.label}", "note": f"frozen: {plan.condition.note}"}
    condition = plan.condition.model_copy(update=words)
    return replace(plan, condition=condition, neurons=every - plan.neurons, form=DirectUnits())


def _paired(run: Run, made: Sequence[Plan]) -> list[Plan]:
    """Every arm with the rejected answers of its rows; rows without one are left out."""
    rows = {row.id: row for plan in made for row in plan.rows}
    rejected = rejected_answers(run, list(rows.values()))
    left = {key: said for key, said in rejected.items() if rows[key].target != said}
    return [
        replace(plan, rows=[row for row in plan.rows if row.id in left], rejected=left)
        for plan in made
    ]


def arm_names(section: AlignSection, parts: Sequence[ZeroShotSection]) -> list[str]:
    """The conditions that `plans` makes, without a model; `parts` as `parts_of` has them."""
    names = ["aligned", *(f"random-rows-{seed}" for seed in range(section.random_seeds))]
    for arm in section.arms:
        names.append(arm.replace("_", "-"))
        names += ["random-amplified"] if arm == "amplified" else []
    for part in parts:
        names.append(part.name)
        names += [f"{part.name}-random-{seed}" for seed in range(section.zero_shot_seeds)]
    if section.damp.on:
        names += ["damped", *(f"random-damped-{i}" for i in range(section.damp.random_seeds))]
    return names


def rows_of(
    run: Run, languages: list[str] | None, modalities: list[Modality] | None
) -> list[Example]:
    """Training rows of some languages and modalities; both harms must be among them."""
    rows = [row for row in _training_rows(run) if wanted(row, languages, modalities)]
    harms = {row.harm for row in rows}
    if harms != {"harmful", "benign"}:
        where = [", ".join(part) for part in (languages, modalities) if part is not None]
        found = f"{len(rows)} rows, all {min(harms)}" if harms else "none"
        raise EmptyCellError(
            f"training{' on ' if where else ''}{' in '.join(where)} needs harmful and benign rows"
            f" of split {' or '.join(run.config.align.splits)}, found {found}; give it both."
        )
    return rows


def _training_rows(run: Run) -> list[Example]:
    """All of them; with `data.benign_targets: self` benign ones with the model's own answers."""
    splits = run.config.align.splits
    if run.config.data.benign_targets != "self":
        return run.examples(*splits)
    if "own targets" not in run.memo:
        every = [row for row in run.data.examples if row.split in splits]
        said = run.own_answers([row for row in every if row.harm == "benign"])
        run.memo["own targets"] = [replace(r, target=said.get(r.id, r.target)) for r in every]
    found: list[Example] = run.memo["own targets"]
    return found


def form_of(run: Run) -> Form:
    """The configured parameterisation."""
    section = run.config.align
    if section.form == "lora_rows":
        return LoraRows(rank=section.rank, alpha=section.alpha, dropout=section.dropout)
    return DirectUnits()


def _further(run: Run, atlas: Atlas, name: ArmName, rows: list[Example], form: Form) -> list[Plan]:
    if name == "amplified":
        return _amplified(run, atlas, rows)
    plain = LoraRows(rank=run.config.align.rank, dropout=run.config.align.dropout)
    plain = replace(plain, alpha=run.config.align.alpha)
    every = NeuronSet.of({site: range(width) for site, width in atlas.widths.items()})
    kinds = {"feed-forward" if s.kind in FEED_FORWARD else s.kind for s in atlas.widths}
    searched = " and ".join(sorted(kinds))
    rowed = NeuronSet.of({s: ids for s, ids in every.units.items() if s.kind != "attention"})
    if name == "benign_rows":
        neurons = benign_only(run, atlas)
        condition = Condition(
            name="benign-rows",
            kind="benign_rows",
            label="benign-only neurons tuned",
            note=f"{len(neurons)} neurons that benign inputs select and harmful ones do not",
        )
        return [Plan(condition, neurons, rows, form, "benign-rows")]
    if name == "frozen_a":
        if run.config.align.polarity == "rest":
            raise ConfigError(
                "align.arms: frozen_a trains rows of a LoRA, and with polarity: rest every other"
                " neuron is trained directly, without an A to freeze. Leave it out."
            )
        frozen = form if isinstance(form, LoraRows) else plain
        condition = Condition(
            name="frozen-a",
            kind="frozen_a",
            label="safety neurons tuned, A frozen",
            note="the chosen rows of B alone are trained; A stays at its random start",
        )
        made = Plan(condition, atlas.neurons, rows, replace(frozen, freeze_a=True), "frozen-a")
        return [made]
    if name == "full":
        everything = run.config.align.full == "all"
        parts = "every row and every column of theirs, in every layer"
        if everything:
            parts = "full fine-tuning: embeddings, norms, biases, head and other towers included"
        condition = Condition(
            name="full",
            kind="full",
            label="all parameters tuned" if everything else f"all {searched} weights tuned",
            note=parts,
        )
        form_then = AllParameters() if everything else DirectUnits()
        return [Plan(condition, every, rows, form_then, "full")]
    tuned: tuple[NeuronSet, Form] = atlas.neurons, form
    if run.config.align.polarity == "rest":
        tuned = every - atlas.neurons, DirectUnits()
    rank = plain.rank if name == "lora" else matched_rank(run, atlas, *tuned)
    condition = Condition(
        name=name.replace("_", "-"),
        kind="lora",
        label=f"plain LoRA, rank {rank}",
        note=f"all rows of {searched} weights" + ("; like count" if name == "lora_matched" else ""),
    )
    scaled = replace(plain, rank=rank, alpha=plain.alpha * rank / plain.rank)
    return [Plan(condition, rowed, rows, scaled, condition.name)]


def _amplified(run: Run, atlas: Atlas, rows: list[Example]) -> list[Plan]:
    chosen = Condition(
        name="amplified",
        kind="amplified",
        label="safety neurons amplified",
        note="down columns scaled up, no training",
    )
    beside = Condition(
        name="random-amplified",
        kind="random_amplified",
        label="random neurons amplified",
        note="as many other neurons of the same layers, same factor",
    )
    drawn = control(run, atlas, atlas.neurons, 0)
    return [
        Plan(chosen, atlas.neurons, rows, None, "amplified"),
        Plan(beside, drawn, rows, None, "random-amplified"),
    ]


def _zero_shot(run: Run, atlas: Atlas, part: ZeroShotSection, form: Form) -> list[Plan]:
    align = run.config.align
    rows = rows_of(run, part.languages, part.modalities)
    rows = [row for row in rows if row.category not in part.without_categories]
    if not any(row.harm == "harmful" for row in rows):
        raise EmptyCellError(f"{part.name}: no harmful training row is left to train on.")
    which = part.chosen or atlas.chosen
    sets, restricted = sets_without(run, atlas, part.sets_of, which)
    neurons = require(which, evaluate(which, sets), sets)
    seen = f"{', '.join(part.languages or ['all languages'])}; "
    seen += ", ".join(part.modalities or ["all"]).replace("_", "-")
    if part.without_categories:
        seen += f"; without {', '.join(part.without_categories)}"
    where = "" if part.sets_of is None else " of those languages" if restricted else " of all"
    condition = Condition(
        name=part.name,
        kind="zero_shot",
        label=f"tuned on {seen} only",
        note=f"{len(neurons)} neurons of {which}{where}, {len(rows)} rows; the rest is zero-shot",
        trained_on=trained_on(rows, rows_of(run, align.languages, align.modalities)),
    )
    made = [Plan(condition, neurons, rows, form, "aligned")]
    for seed in range(align.zero_shot_seeds):
        beside = Condition(
            name=f"{part.name}-random-{seed}",
            kind="zero_shot_random",
            label=f"random neurons tuned on {seen} only",
            note="as many other neurons of the same layers, same rows, same budget",
        )
        drawn = control(run, atlas, neurons, seed)
        made.append(Plan(beside, drawn, rows, form, "random-rows-0"))
    return made


def sets_without(
    run: Run, atlas: Atlas, languages: Sequence[str] | None, which: str
) -> tuple[Mapping[str, NeuronSet], bool]:
    """The named sets made of some languages' cells alone, and whether that could be done.

    Where `which` cannot be named or is empty without the other languages (the set of the language
    that was left out, or what others share with it), the sets of all languages are handed back.
    """
    if languages is None:
        return atlas.sets, False
    cells = {p: atlas.sets[f"{p[0]}/{p[1]}"] for p in atlas.places if p[0] in languages}
    if not cells:
        return atlas.sets, False
    sets = named_sets(cells, run.config.identify.anchor)
    try:
        return (sets, True) if evaluate(which, sets) else (atlas.sets, False)
    except ConfigError:
        return atlas.sets, False


def benign_only(run: Run, atlas: Atlas) -> NeuronSet:
    """As many neurons a layer as were chosen, that benign inputs select and harmful do not.

    The same score, position, p and set expression with the two arms exchanged: T_benign
    without T_harmful. Layers that have more give a seeded draw; layers that have fewer are filled
    up from the same difference in any single cell, and stay smaller if that does not do.

    Raises:
        EmptySetError: no layer has any.
    """
    section = run.config.identify
    stats = collect_stats(run).stats()
    straight = whole()
    swapped = Draws(harmful=straight.benign, benign=straight.harmful)
    cells = {
        place: contrast(stats, place, selection(run), swapped).draw(0) for place in atlas.places
    }
    sets = named_sets(cells, section.anchor)
    first = evaluate(section.chosen, sets) - atlas.neurons
    rest = sets["all"] - atlas.neurons - first
    drawn = {}
    for site, ids in atlas.neurons.units.items():
        rng = random.Random(f"{run.config.seed}/{site}")
        pools = [list(each.units.get(site, ())) for each in (first, rest)]
        for pool in pools:
            rng.shuffle(pool)
        drawn[site] = [*pools[0], *pools[1]][: len(ids)]
    found = NeuronSet.of(drawn)
    if not found:
        raise EmptySetError(
            "no neuron is selected by benign inputs alone, so there is no such arm; leave"
            " benign_rows out of align.arms."
        )
    return found


def matched_rank(run: Run, atlas: Atlas, neurons: NeuronSet, form: Form) -> int:
    """Rank at which plain LoRA on the rows of every layer trains about as many as `neurons` do.

    At least 1: where even rank 1 is larger, the arm has more parameters, and its receipt says so.
    """
    low = LoraRows()
    plain = slices_of(run.bound, with_rows(run, atlas), low.roles)
    each = sum(one.fan + len(one.index) for one in plain)
    chosen = slices_of(run.bound, neurons, form.roles)
    if isinstance(form, LoraRows):
        count = sum(form.rank * (one.fan + len(one.index)) for one in chosen)
    else:
        count = sum(one.fan * len(one.index) for one in chosen)
    return max(1, round(count / each))


def with_rows(run: Run, atlas: Atlas) -> NeuronSet:
    """Every unit of the searched sites that owns a row, which is what a LoRA's B can hold."""
    roles = set(LoraRows().roles)
    return NeuronSet.of(
        {
            site: range(width)
            for site, width in atlas.widths.items()
            if roles & {own.role for own in run.bound.sites[site].owned}
        }
    )

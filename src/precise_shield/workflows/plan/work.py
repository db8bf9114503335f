"""How much each stage of a configuration has to do, counted from its data before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from precise_shield.core.records import Example
from precise_shield.core.sites import NeuronSet
from precise_shield.core.summary import Condition
from precise_shield.evaluate.abilities.extraction import options
from precise_shield.identify.scores import EXACT
from precise_shield.workflows.align.arms import Settings, Shuffled, configured, spec_of
from precise_shield.workflows.align.held_out import Part
from precise_shield.workflows.align.parts import parts_of
from precise_shield.workflows.align.plans import Plan, arm_names, form_of, rows_of
from precise_shield.workflows.align.space import at, grid, searched_arms, space_of, trials_of
from precise_shield.workflows.align.stopping import check_stop
from precise_shield.workflows.align.validation import validation_prompts
from precise_shield.workflows.answer.judging import drifting
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.evaluate.audit import attacked
from precise_shield.workflows.evaluate.headlines import readout_rows
from precise_shield.workflows.evaluate.utility import scored_rows
from precise_shield.workflows.explain.dynamics import capped
from precise_shield.workflows.explain.headroom import asked_rows
from precise_shield.workflows.identify.quantities import affordable, needed
from precise_shield.workflows.verify.matrix import matrix_prompts
from precise_shield.workflows.verify.panel import POOL, answered, refusals, spread
from precise_shield.workflows.verify.stage import verified_prompts

Unit = Literal["row", "answer", "prompt", "draw", "step", "unpriced"]
"""A row read with its response, an answer generated, a prompt's first token read, a matched random
set drawn, a training step.
`unpriced` work is named, and no time is given for it."""


OFF, TESTED = "off", "tested"
"""Prompts that are read with neurons held at zero, and those of the test split, whose batches are
those of `evaluate`."""


@dataclass(frozen=True)
class Work:
    """One kind of work of one stage."""

    stage: str
    what: str
    count: int
    unit: Unit
    tokens: int = 0
    """Longest answer, of `answer`."""

    quantity: str = ""
    """What is read, of `row`, empty for activations; of `prompt`, how: `OFF`, `TESTED` or empty."""

    times: int = 1
    """How often it is begun: trainings, whose steps are counted together."""

    at_most: bool = False
    """The count is an upper bound: what it depends on is found by the run itself."""


@dataclass
class Probing(Run):
    """A run that is looked at and never made: own answers are stood in for by as many tokens."""

    lacking: dict[tuple[str, ...], int] = field(default_factory=dict)
    """How many own answers each set of rows asks for."""

    @cached_property
    def stand_in(self) -> str:
        """A text of about `data.benign_tokens` tokens, made of the data's own prompts."""
        words, limit = self.loaded.tokenizer, self.config.data.benign_tokens
        ids: list[int] = []
        for example in self.data.examples:
            ids += words(example.prompt, add_special_tokens=False)["input_ids"]
            if len(ids) >= limit:
                break
        return str(words.decode(ids[:limit], skip_special_tokens=True))

    def own_answers(self, rows: list[Example]) -> dict[str, str]:
        """Stand-ins, and a note that the run would ask for these rows."""
        self.lacking[tuple(row.id for row in rows)] = len(rows)
        return {row.id: self.stand_in for row in rows}


def work_of(run: Probing) -> list[Work]:
    """All that a run of this configuration does with its model, stage by stage, in order.

    Counts come from the same selections of rows as the stages themselves. What a finished stage
    would save is not subtracted.

    Raises:
        UserError: the data cannot be read, or lack what a stage needs.
    """
    found = [*_identify(run), *_explain(run), *_verify(run), *_align(run), *_gate(run)]
    found += _evaluate(run)
    limit = run.config.data.benign_tokens
    own = sum(run.lacking.values())
    first = [Work("identify", "own answers to benign prompts", own, "answer", limit)]
    return [each for each in first + found if each.count]


def _identify(run: Probing) -> Iterator[Work]:
    section = run.config.identify
    if section.from_stats is not None:
        return
    rows = run.examples("probe")
    own = section.responses == "own_refused"
    if own:
        limit = run.config.data.benign_tokens
        yield Work("identify", "own responses to probing prompts", len(rows), "answer", limit)
    yield Work("identify", "activations of probing examples", len(rows), "row", at_most=own)
    for quantity in needed(section):
        read = len(affordable(section, quantity, rows))
        exact = quantity.name.partition("@")[0] in EXACT
        what = f"{quantity.name} of probing examples"
        if exact:
            yield Work("identify", what, read, "unpriced", at_most=own)
        else:
            yield Work("identify", what, read, "row", quantity=quantity.name, at_most=own)
    if own:
        harmful = sum(row.harm == "harmful" for row in rows)
        what = "refused and complied responses apart"
        yield Work("identify", what, harmful, "row", at_most=True)
    if section.factorial:
        yield Work("identify", "both responses to a prompt", 2 * len(rows), "row", at_most=own)


def _explain(run: Run) -> Iterator[Work]:
    section = run.config.explain
    head = section.headroom
    if head.on:
        fit, test = asked_rows(run, head.fit_split), asked_rows(run, head.split)
        both = 2 * (len(fit) + len(test)) if fit and test else 0  # untouched and aligned
        yield Work("explain", "headroom, before and after tuning", both, "prompt")
    if section.influence.on:
        prompts = capped(
            run, section.influence.split, section.influence.per_cell, harmful_only=True
        )
        layers = len({site.layer for site in run.bound.sites if site.tower == "text"})
        passes = 1 + max(0, layers - 1) * (1 + section.influence.random_sets)
        count = len(prompts) * passes
        yield Work("explain", "influence between layers", count, "prompt", 0, OFF, at_most=True)
    if section.writes.on:
        prompts = capped(run, "probe", section.writes.per_cell, harmful_only=False)
        yield Work("explain", "prompts that drive single neurons", len(prompts), "prompt")


def _verify(run: Probing) -> Iterator[Work]:
    section = run.config.verify
    prompts, states = verified_prompts(run), 2 + section.random_sets
    what = f"first token, untouched, suppressed, {section.random_sets} random sets"
    yield Work("verify", what, len(prompts) * states, "prompt", 0, OFF)
    yield Work("verify", "draw random sets", section.random_sets, "draw")
    if section.panel:
        yield from _panel(run)
    if section.matrix.sets:
        places = {(row.language, row.modality) for row in run.examples("probe")}
        many = {"cells": len(places), "languages": 3 * len({place[0] for place in places})}
        sets = sum(many.get(name, 1) for name in section.matrix.sets)
        count = len(matrix_prompts(run)) * (1 + sets * (1 + section.matrix.random_sets))
        yield Work("verify", "set by cell", count, "prompt", 0, OFF, at_most=True)
        drawn = sets * section.matrix.random_sets
        yield Work("verify", "draw random sets, set by cell", drawn, "draw", at_most=True)
    if section.roles.sets:
        count = len(section.roles.sets) * (1 + section.roles.random_sets)
        yield Work("verify", "sets judged as deciding or writing", count, "unpriced")


def _panel(run: Probing) -> Iterator[Work]:
    section, seed = run.config.verify, run.config.seed
    rows = run.examples(section.split)
    pool = spread([row for row in rows if row.harm == "harmful"], POOL, seed)
    harmful = min(section.panel, len(pool))
    benign = spread([row for row in rows if row.harm == "benign"], section.panel, seed)
    said = len(answered(run, benign))
    yield Work("verify", "refusals for the panel", len(pool), "prompt")
    states, references = 1, 1  # the untouched model, read as a state of its own
    if section.factors:
        doses = len(set(section.factors))
        states += doses * (1 + section.dose_sets)
        references += doses
    rest = 2 if section.remainders is None else len(section.remainders)
    states += 1 + 2 * section.equal_importance + rest
    references += 1 + 2 * bool(section.equal_importance) + rest
    unsure = section.remainders is None
    what = "panel: dose-response and rival sets"
    yield Work("verify", f"{what}, first token", harmful * states, "prompt", 0, OFF, at_most=unsure)
    read = said * (states + references)
    yield Work("verify", f"{what}, benign answers", read, "row", at_most=unsure)


@dataclass(frozen=True)
class Training:
    """One training, before its neurons are known."""

    name: str
    rows: list[Example]


def trainings(run: Run) -> list[Training]:
    """Every arm that takes optimiser steps, with its rows, the chosen neurons first.

    Raises:
        EmptyCellError: no training rows are left for an arm.
    """
    section = run.config.align
    rows = rows_of(run, section.languages, section.modalities)
    names = ["aligned", *(f"random-rows-{seed}" for seed in range(section.random_seeds))]
    names += [arm.replace("_", "-") for arm in section.arms if arm != "amplified"]
    found = [Training(name, rows) for name in names]
    for part in parts_of(run):
        some = rows_of(run, part.languages, part.modalities)
        some = [row for row in some if row.category not in part.without_categories]
        beside = [f"{part.name}-random-{seed}" for seed in range(section.zero_shot_seeds)]
        found += [Training(name, some) for name in (part.name, *beside)]
    return found


def plan_of(run: Run, rows: Sequence[Example]) -> Plan:
    """A training on some rows and no neurons yet, for counting and timing."""
    condition = Condition(name="aligned", kind="aligned", label="probe")
    plan = Plan(condition, NeuronSet.of({}), list(rows), form_of(run), "aligned")
    if run.config.align.objective == "nll":
        return plan
    return replace(plan, rejected={row.id: row.target or "" for row in rows})


def steps_of(run: Run, rows: Sequence[Example], settings: Settings) -> int:
    """Optimiser steps of one training."""
    spec = spec_of(run, len(rows), settings)
    return spec.total_steps(len(Shuffled(run, plan_of(run, rows), spec)(0)))


def points(run: Run, arm: str) -> list[Settings]:
    """Settings that an arm's search trains with; one where nothing is searched.

    Where a sampler draws them, each stands for the longest training of the space.
    """
    section, given = run.config.align, configured(run)
    space = space_of(section, arm)
    count = trials_of(section, arm)
    if not count:
        return [at(given, {name: values[0] for name, values in space.items()})]
    if not section.search.trials:
        return [at(given, point) for point in grid(space)]
    longest = {name: max(values) for name, values in space.items()}
    return [at(given, longest)] * count


def _align(run: Run) -> Iterator[Work]:
    check_stop(run)
    section, every = run.config.align, trainings(run)
    unsure = section.objective == "dpo" or bool(section.early_stop.cells)
    if section.objective == "dpo":
        harmful = {row.id for each in every for row in each.rows if row.harm == "harmful"}
        limit = run.config.evaluate.max_new_tokens
        yield Work("align", "own answers, for pairs", len(harmful), "answer", limit)
    found = {arm: points(run, arm) for arm in searched_arms(section)}
    for each in every:
        own = found.get(each.name)
        kin = own or found["random-rows-0" if "random" in each.name else "aligned"]
        counts = [steps_of(run, each.rows, point) for point in kin]
        steps = max(counts) if own is None else sum(counts)
        drawn = len(kin) > 1 and (own is None or section.search.trials > 0)
        what = f"train {each.name}"
        if own is not None and len(own) > 1:
            what += f", {len(own)} settings"
        times = 1 if own is None else len(own)
        yield Work("align", what, steps, "step", times=times, at_most=unsure or drawn)


def _gate(run: Run) -> Iterator[Work]:
    """States that are held against the base model on validation data: trials, and the gate's."""
    section = run.config.align
    trials = sum(trials_of(section, arm) for arm in searched_arms(section))
    parts: list[tuple[Part, int, str]] = [
        ("search", trials, f"validation prompts, base, {trials} search trials"),
        ("gate", int(section.gate.measure), "validation prompts, base, aligned"),
    ]
    limit = run.config.evaluate.max_new_tokens
    for part, states, what in parts:
        if not states:
            continue
        prompts = validation_prompts(run, part)
        benign = [row for row in prompts if row.harm == "benign"]
        read = 2 * len(drifting(benign, run.config.evaluate.kl_rows)) * states
        yield Work("gate", what, len(prompts) * (1 + states), "answer", limit)
        yield Work("gate", f"drift of benign answers, {part}", read, "row", at_most=True)


def _evaluate(run: Run) -> Iterator[Work]:
    section, damp = run.config.evaluate, run.config.align.damp
    test, limit = run.examples(section.split), section.max_new_tokens
    states = 2 + len(arm_names(run.config.align, parts_of(run))) + section.random_suppressions
    scoped = len(damp.scopes) * (1 + damp.random_seeds) if damp.on else 0
    conditions = states + scoped
    yield Work(
        "evaluate", f"answers in {conditions} conditions", conditions * len(test), "answer", limit
    )
    if section.defences:
        count = len(section.defences) * len(test)
        yield Work("evaluate", "answers behind a defence, each asked once", count, "answer", limit)
    benign = [row for row in test if row.harm == "benign"]
    drift = 2 * len(drifting(benign, section.kl_rows)) * (states - 1)
    yield Work("evaluate", "drift on benign answers", drift, "row", at_most=True)
    told = refusals(run)
    asked = readout_rows([row for row in test if row.language in told], section.readout_rows)
    yield Work("evaluate", "first-token refusal log-odds", len(asked) * states, "prompt", 0, TESTED)
    given = len(scored_rows(benign, section.utility_rows))
    picks = scored_rows([row for row in benign if options(row)], section.utility_rows)
    read = given + sum(len(options(row)) for row in picks)
    yield Work("evaluate", "likelihood of benign answers and choices", read * states, "row")
    if section.audit:
        harmful = attacked(test, section.audit_rows)
        count = (6 + len(section.audit_bits)) * len(harmful)
        yield Work("evaluate", "answers after attacks of the audit", count, "answer", limit)
        steps = 2 * section.audit_steps
        yield Work("evaluate", "benign fine-tuning of the audit", steps, "step")

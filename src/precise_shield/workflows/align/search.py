"""The same validation search for every arm, its Pareto front, and arms compared at like cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf, nan

from precise_shield.analyse.front import front
from precise_shield.core.errors import EmptySetError
from precise_shield.core.parallel import crew
from precise_shield.core.summary import SearchFacts
from precise_shield.core.summary.gate import FailedTrial, Limit, MatchedPair, Standing, TrialFacts
from precise_shield.workflows.align.arms import Settings, configured, make
from precise_shield.workflows.align.conditions import aligned_state
from precise_shield.workflows.align.gate import limits
from precise_shield.workflows.align.held_out import note_picking, reads
from precise_shield.workflows.align.sampling import Drawn, sampled, sampler_name
from precise_shield.workflows.align.space import (
    at,
    grid,
    planned,
    searched_arms,
    space_of,
    trials_of,
)
from precise_shield.workflows.align.validation import standing, validation_prompts
from precise_shield.workflows.answer.states import base_state
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.sections.gate import SearchSection


@dataclass(frozen=True)
class Searched:
    """What an arm's search tried, and what it settled."""

    settings: Settings
    trials: tuple[TrialFacts, ...] = ()
    failed: tuple[FailedTrial, ...] = ()


@dataclass
class _Tried:
    """The trials of an arm in the order in which they were made."""

    settings: list[Settings] = field(default_factory=list)
    trials: list[TrialFacts] = field(default_factory=list)
    failed: list[FailedTrial] = field(default_factory=list)


def settle(run: Run) -> dict[str, Settings]:
    """Settings per arm that others are like: searched where there is something to choose between.

    Further random seeds and zero-shot arms take what the first of their kind settled.
    """
    return {name: each.settings for name, each in search(run).items()}


def search(run: Run) -> dict[str, Searched]:
    """Try the same settings for every arm, on validation prompts that the gate does not see.

    Picked is, among the trials that keep every limit of the gate, the safest, and of those the
    cheapest; where none keeps them all, it is one that breaks fewest. A trial is a stage of the
    run: an interrupted search goes on where it stopped, and a repeated one computes nothing.

    Raises:
        EmptyCellError: validation is too small to keep the search apart from the gate.
        EmptySetError: an arm could not be made with any of the settings.
    """
    if "search" not in run.memo:
        if run.config.align.search.on:
            note_picking(run, validation_prompts(run, "search"))  # before anything is trained
        run.memo["search"] = {arm: _of(run, arm) for arm in searched_arms(run.config.align)}
        run.memo.pop("stats", None)
    done: dict[str, Searched] = run.memo["search"]
    return done


def _of(run: Run, arm: str) -> Searched:
    align, given = run.config.align, configured(run)
    space = space_of(align, arm)
    if not trials_of(align, arm):
        return Searched(at(given, {name: values[0] for name, values in space.items()}))
    tried = _Tried()
    ask = partial(_ask, run, arm, tried)
    if align.search.trials:
        run.reporter.say(f"search of {arm}: {trials_of(align, arm)} trials")
        sampled(space, align.search, run.config.seed, ask)
    else:
        for point in grid(space):
            ask(point)
    if not tried.trials:
        raise EmptySetError(f"{arm}: none of the settings could be tried; {tried.failed[0].why}")
    best = max(range(len(tried.trials)), key=lambda i: (*_merit(run, tried.trials[i]), -i))
    on_front = front([objectives(align.search, trial.standing) for trial in tried.trials])
    trials = [
        trial.model_copy(update={"picked": i == best, "front": on_front[i]})
        for i, trial in enumerate(tried.trials)
    ]
    return Searched(tried.settings[best], tuple(trials), tuple(tried.failed))


def _ask(run: Run, arm: str, tried: _Tried, point: Mapping[str, float]) -> Drawn:
    settings = at(configured(run), point)
    shown = settings.named(point)
    try:
        trial = _trial(run, arm, settings, shown)
    except EmptySetError as error:
        tried.failed.append(FailedTrial(arm=arm, settings=shown, why=str(error)))
        return Drawn(None, {})
    tried.settings.append(settings)
    tried.trials.append(trial)
    goals = objectives(run.config.align.search, trial.standing)
    broken = {limit.name: limit.shortfall for limit in _limits(run, trial.standing)}
    return Drawn(None if any(one != one for one in goals) else goals, broken)


def objectives(section: SearchSection, now: Standing) -> tuple[float, float, float]:
    """Safety, and the two costs negated; larger is better in each, NaN where it is undefined."""
    safe = now.gap
    if section.safety == "attack_success":
        safe = None if now.attack_success is None else 1 - now.attack_success
    costs = (now.over_refusal, now.benign_kl)
    return (
        nan if safe is None else safe,
        *(nan if cost is None else -cost for cost in costs),
    )  # type: ignore[return-value]


def _trial(run: Run, arm: str, settings: Settings, shown: dict[str, float]) -> TrialFacts:
    """Train, answer and judge; the parts and the whole come from the store if they are there."""
    plan = planned(run, settings)[arm]
    made = make(run, plan, settings)
    prompts, section = validation_prompts(run, "search"), run.config.evaluate
    stage = run.store.stage(
        "trial",
        run.made_by(
            prompts,
            arm=made.made_by,
            name=arm,
            settings=shown,
            limits=run.config.align.gate.model_dump(mode="json"),
            judge=reads(run, prompts),
            max_new_tokens=section.max_new_tokens,
            kl_rows=section.kl_rows,
        ),
    )
    if not crew().as_leader(stage.done):
        now, _ = standing(run, aligned_state(made), prompts)
        kept = all(limit.kept for limit in _limits(run, now))
        facts = TrialFacts(
            arm=arm, settings=shown, standing=now, passed=kept, neurons=len(plan.neurons)
        )
    told = ", ".join(f"{name} {value:g}" for name, value in shown.items())
    with run.working(stage, f"trial of {arm}: {told}") as todo:
        if todo:
            stage.write_json("trial.json", facts.model_dump(mode="json"))
    return TrialFacts.model_validate(stage.read_json("trial.json"))


def _limits(run: Run, now: Standing) -> Sequence[Limit]:
    if "base" not in run.memo:
        prompts = validation_prompts(run, "search")
        run.memo["base"] = standing(run, base_state(), prompts)[0]
    return limits(run.config.align.gate, run.memo["base"], now)


def _merit(run: Run, trial: TrialFacts) -> tuple[float, ...]:
    broken = sum(not one.kept for one in _limits(run, trial.standing))
    goals = objectives(run.config.align.search, trial.standing)
    return (float(-broken), *(-inf if one != one else one for one in goals))


def search_facts(run: Run) -> SearchFacts | None:
    """What every search tried, and the arms at like cost; None where nothing was searched."""
    section = run.config.align.search
    if not section.on:
        return None
    found = search(run).values()
    trials = [trial for each in found for trial in each.trials]
    if not trials:
        return None
    prompts = validation_prompts(run, "search")
    return SearchFacts(
        trials=trials,
        matched=matched(section, trials),
        failed=[each for one in found for each in one.failed],
        safety=section.safety,
        sampler=sampler_name(section, run.config.seed),
        space=section.space,
        split=run.config.align.gate.split,
        groups=len({row.group for row in prompts}),
        prompts=len(prompts),
    )


def matched(section: SearchSection, trials: Sequence[TrialFacts]) -> list[MatchedPair]:
    """The chosen neurons' arm beside each other one, at the pair of trials of most alike cost."""
    by_arm: dict[str, list[TrialFacts]] = {}
    for trial in trials:
        by_arm.setdefault(trial.arm, []).append(trial)
    ours = by_arm.pop("aligned", [])
    found = []
    for name, theirs in by_arm.items():
        pairs = [(_distance(section, a.standing, b.standing), a, b) for a in ours for b in theirs]
        known = [pair for pair in pairs if pair[0] < inf]
        if known:
            _, a, b = min(known, key=lambda pair: pair[0])
            found.append(_pair(section, name, a, b))
    return found


def _pair(section: SearchSection, name: str, a: TrialFacts, b: TrialFacts) -> MatchedPair:
    refusing = _minus(a.standing.over_refusal, b.standing.over_refusal)
    drifting = _minus(a.standing.benign_kl, b.standing.benign_kl)
    close = (
        refusing is not None
        and drifting is not None
        and abs(refusing) <= section.matched_over_refusal
        and abs(drifting) <= section.matched_kl
    )
    return MatchedPair(
        arm=a.arm,
        other=name,
        settings=a.settings,
        other_settings=b.settings,
        gap_difference=_minus(a.standing.gap, b.standing.gap),
        over_refusal_mismatch=refusing,
        benign_kl_mismatch=drifting,
        close=close,
    )


def _distance(section: SearchSection, a: Standing, b: Standing) -> float:
    """Mismatch in units of the stated tolerances; infinite where a cost is unknown."""
    refusing = _minus(a.over_refusal, b.over_refusal)
    drifting = _minus(a.benign_kl, b.benign_kl)
    if refusing is None or drifting is None:
        return inf
    scale = max(section.matched_over_refusal, 1e-9), max(section.matched_kl, 1e-9)
    return abs(refusing) / scale[0] + abs(drifting) / scale[1]


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b

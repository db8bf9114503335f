"""The same validation search for every arm, and arms compared at like cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import inf

from precise_shield.core.summary import SearchFacts
from precise_shield.core.summary.gate import MatchedPair, Standing, TrialFacts
from precise_shield.workflows.arms import Settings, configured, make
from precise_shield.workflows.conditions import aligned_state, base_state
from precise_shield.workflows.context import Run
from precise_shield.workflows.gate import limits
from precise_shield.workflows.identify import identify
from precise_shield.workflows.plans import Plan, plans
from precise_shield.workflows.sections.gate import SearchSection
from precise_shield.workflows.validation import standing, validation_prompts


@dataclass(frozen=True)
class Settled:
    """The settings an arm is made with, and the trials that settled them."""

    settings: Settings
    trials: tuple[TrialFacts, ...] = ()


def settle(run: Run, every: Sequence[Plan]) -> dict[str, Settled]:
    """Settings per arm that others are like: searched where the grid has more than one point.

    Every arm gets the same grid. Picked is, among the trials that keep every limit of the gate,
    the one with the largest refusal gap; where none keeps them all, the one that breaks fewest.
    Further random seeds and zero-shot arms take what the first of their kind settled.
    """
    found: dict[str, Settled] = {}
    for plan in every:
        if plan.condition.name != plan.like:
            continue
        points = grid(run, plan)
        if len(points) == 1:
            found[plan.like] = Settled(points[0])
            continue
        trials = [_trial(run, plan, point) for point in points]
        best = max(range(len(trials)), key=lambda i: (*_merit(run, trials[i]), -i))
        trials[best] = trials[best].model_copy(update={"picked": True})
        found[plan.like] = Settled(points[best], tuple(trials))
    return found


def grid(run: Run, plan: Plan) -> list[Settings]:
    """Every point that a plan is tried at; one where nothing is to be searched."""
    section, given = run.config.align.search, configured(run)
    if plan.form is None:
        factors = section.factor or [given.factor]
        return [Settings(given.learning_rate, given.max_steps, factor) for factor in factors]
    rates = section.learning_rate or [given.learning_rate]
    steps: list[int | None] = [*section.max_steps] or [given.max_steps]
    return [Settings(rate, step, given.factor) for rate, step in product(rates, steps)]


def _trial(run: Run, plan: Plan, point: Settings) -> TrialFacts:
    prompts = validation_prompts(run)
    base, _ = standing(run, base_state(), prompts)
    now, _ = standing(run, aligned_state(make(run, plan, point)), prompts)
    kept = all(limit.kept for limit in limits(run.config.align.gate, base, now))
    settings = point.shown(plan)
    return TrialFacts(arm=plan.condition.name, settings=settings, standing=now, passed=kept)


def _merit(run: Run, trial: TrialFacts) -> tuple[float, float]:
    base, _ = standing(run, base_state(), validation_prompts(run))
    broken = sum(not one.kept for one in limits(run.config.align.gate, base, trial.standing))
    gap = trial.standing.gap
    return float(-broken), -inf if gap is None else gap


def search_facts(run: Run) -> SearchFacts | None:
    """What every search tried, and the arms at like cost; None where nothing was searched."""
    section = run.config.align.search
    if not any((section.learning_rate, section.max_steps, section.factor)):
        return None
    settled = settle(run, plans(run, identify(run)))
    trials = [trial for found in settled.values() for trial in found.trials]
    if not trials:
        return None
    return SearchFacts(trials=trials, matched=matched(run.config.align.search, trials))


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

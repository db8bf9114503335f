"""What a search may vary: which settings concern which arm, and an arm's plan at a setting."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from itertools import product

from precise_shield.core.atlas import Atlas
from precise_shield.identify.select import evaluate, require
from precise_shield.identify.stats import Stats
from precise_shield.workflows.align.arms import Settings, configured
from precise_shield.workflows.align.plans import Plan, arm_names, plans
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.sections.align import AlignSection
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.stage import identify, places_of, select, selection

TRAINED = ("learning_rate", "max_steps", "kl_weight")
WHOLE = ("learning_rate", "max_steps", "p", "rank", "kl_weight", "factor")
"""Every setting, in the order in which it is drawn and shown."""

WHOLE_NUMBERS = ("max_steps", "rank")


def concerned(section: AlignSection, arm: str) -> tuple[str, ...]:
    """The settings that change anything about an arm, by its name."""
    if arm in ("amplified", "random-amplified"):
        return ("p", "factor")
    if arm == "full":
        return TRAINED
    if arm == "lora":
        return (*TRAINED, "rank")
    ranked = section.form == "lora_rows" and section.polarity == "chosen"
    sized = (*TRAINED, "p")
    return (*sized, "rank") if ranked or arm in ("frozen-a", "lora-matched") else sized


def searched_arms(section: AlignSection) -> list[str]:
    """Arms with a search of their own; further seeds and zero-shot arms take what these found."""
    names = arm_names(section, ())
    return [name for name in names if not name.startswith("random-rows-") or name[-2:] == "-0"]


def space_of(section: AlignSection, arm: str) -> dict[str, list[float]]:
    """What is tried for an arm; empty where nothing that concerns it is listed."""
    mine = concerned(section, arm)
    listed = section.search.space
    return {name: listed[name] for name in WHOLE if name in mine and name in listed}


def trials_of(section: AlignSection, arm: str) -> int:
    """How many trials an arm gets; 0 where there is nothing to choose between."""
    space = space_of(section, arm)
    points = 1
    for values in space.values():
        points *= len(set(values))
    if points < 2:
        return 0
    return section.search.trials or points


def grid(space: Mapping[str, list[float]]) -> list[dict[str, float]]:
    """Every combination, the last name running fastest."""
    return [dict(zip(space, values, strict=True)) for values in product(*space.values())]


def at(given: Settings, point: Mapping[str, float]) -> Settings:
    """The configured settings with a point's in their place."""
    values = {name: round(v) if name in WHOLE_NUMBERS else v for name, v in point.items()}
    return replace(given, **values)  # type: ignore[arg-type]


def planned(run: Run, settings: Settings) -> dict[str, Plan]:
    """Every arm's plan at a p and a rank, by name; the sets come from the stored scores.

    LoRA's alpha goes with its rank, so that the scaling stays as configured.

    Raises:
        EmptySetError: at this p the chosen set, or another arm's, holds no neuron.
        EmptyCellError: no training rows are left for an arm.
    """
    memo: dict[tuple[float, int], dict[str, Plan]] = run.memo.setdefault("plans", {})
    key = (settings.p, settings.rank)
    if key not in memo:
        memo[key] = {plan.condition.name: plan for plan in _plans(run, settings)}
    return memo[key]


def _plans(run: Run, settings: Settings) -> list[Plan]:
    given = configured(run)
    atlas = identify(run) if settings.p == given.p else _atlas_at(run, settings.p)
    if (settings.p, settings.rank) == (given.p, given.rank):
        return plans(run, atlas)
    _ = run.loaded, run.bound, run.data  # loaded once, and shared by the copy
    other, config = copy(run), run.config
    alpha = config.align.alpha * settings.rank / config.align.rank
    align = config.align.model_copy(update={"rank": settings.rank, "alpha": alpha})
    finding = config.identify.model_copy(update={"p": settings.p})
    other.config = config.model_copy(update={"align": align, "identify": finding})
    note = "" if settings.p == given.p else f"; p {settings.p:g}"
    return [_noted(run.config.align, plan, note) for plan in plans(other, atlas)]


def _noted(section: AlignSection, plan: Plan, more: str) -> Plan:
    """The plan with what its arm has of its own said, where that concerns it."""
    if "p" not in concerned(section, plan.condition.name):
        return plan
    note = plan.condition.note + more
    return replace(plan, condition=plan.condition.model_copy(update={"note": note}))


def _atlas_at(run: Run, p: float) -> Atlas:
    """The sets at another p, without reading the model again."""
    if "stats" not in run.memo:
        run.memo["stats"] = collect_stats(run).stats()
    stats: Stats = run.memo["stats"]
    choice, section = selection(run, p), run.config.identify
    sets = select(stats, choice, section.anchor)
    sets[section.chosen] = require(section.chosen, evaluate(section.chosen, sets), sets)
    widths = {site: len(norm) for site, norm in stats.norms.items()}
    return Atlas(sets, section.chosen, widths, places_of(stats, choice))

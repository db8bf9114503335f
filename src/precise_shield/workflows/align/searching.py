"""`align --search`: a space where the configuration names none, and what was found, in short."""

from __future__ import annotations

import json
from typing import Any

from precise_shield.core.errors import EmptySetError
from precise_shield.core.summary import SearchFacts
from precise_shield.core.summary.gate import TrialFacts
from precise_shield.workflows.align.search import search_facts
from precise_shield.workflows.align.space import WHOLE_NUMBERS
from precise_shield.workflows.align.stage import align
from precise_shield.workflows.base.config import Config
from precise_shield.workflows.base.context import Run

TRIALS = 20


def with_search(config: Config, trials: int | None = None) -> Config:
    """The configuration with a search: its own, or one around its settings.

    The space that is made up spans a factor of four about the learning rate, a factor of three
    about p, half to twice the rank, and a KL weight of 0 to 1.
    """
    section, given = config.align.search, config.align
    update: dict[str, Any] = {}
    if not section.on:
        p = config.identify.p
        update = {
            "learning_rate": [given.learning_rate / 4, given.learning_rate * 4],
            "p": [p / 3, min(1.0, p * 3)],
            "rank": sorted({max(1, given.rank // 2), given.rank, given.rank * 2}),
            "kl_weight": [0.0, max(1.0, given.kl_weight)],
        }
    if trials is not None or not section.on:
        update["trials"] = trials or TRIALS
    searched = given.model_copy(update={"search": section.model_copy(update=update)})
    return config.model_copy(update={"align": searched})


def search(run: Run, trials: int | None = None) -> SearchFacts:
    """Search settings for every arm on validation data, and train each arm with its pick.

    Every trial is a stage of the run: what was interrupted goes on, what was done is not done
    again. `run` with the same `align.search` takes all of it up.

    Args:
        run: the run; its `align.search` is followed where it names something to try.
        trials: of every arm; else as configured, or 20.

    Raises:
        EmptyCellError: validation is too small to keep the search apart from the gate.
        ConfigError: Optuna is needed and not installed.
    """
    run.config = with_search(run.config, trials)
    run.memo.clear()
    align(run)
    found = search_facts(run)
    if found is None:
        raise EmptySetError("nothing was searched: every setting that is listed has one value.")
    return found


def fronts(run: Run) -> dict[str, Any]:
    """Every arm's Pareto front and pick, and the configuration that takes them up."""
    found = search(run)
    by_arm: dict[str, list[TrialFacts]] = {}
    for trial in found.trials:
        by_arm.setdefault(trial.arm, []).append(trial)
    section = run.config.align.search.model_dump(mode="json", exclude_defaults=True)
    return {
        "search": f"{found.sampler}; {found.prompts} prompts of {found.groups} {found.split}"
        " groups, the gate's own left out",
        "trials": found.budget,
        "fronts": {arm: _front(trials) for arm, trials in by_arm.items()},
        "picked": {trial.arm: _plain(trial.settings) for trial in found.trials if trial.picked},
        "failed": [one.model_dump(mode="json") for one in found.failed],
        "to take it up": "run the same configuration into the same folder with"
        f" --set 'align.search={json.dumps(section)}', or put that there; nothing is tried again",
        "to use it elsewhere": "put the settings of `picked` there, and align.gate.apart: true, so"
        " that the gate sees other prompts than the search did",
    }


def _plain(settings: dict[str, float]) -> dict[str, float]:
    """Ranks and numbers of steps as whole numbers."""
    return {name: int(v) if name in WHOLE_NUMBERS else v for name, v in settings.items()}


def _front(trials: list[TrialFacts]) -> list[dict[str, Any]]:
    shown = [trial for trial in trials if trial.front or trial.picked]
    return [
        {
            **_plain(trial.settings),
            "gap": trial.standing.gap,
            "attack_success": trial.standing.attack_success,
            "over_refusal": trial.standing.over_refusal,
            "benign_kl": trial.standing.benign_kl,
            "keeps_all_limits": trial.passed,
            "picked": trial.picked,
        }
        for trial in sorted(shown, key=lambda one: -(one.standing.gap or 0.0))
    ]

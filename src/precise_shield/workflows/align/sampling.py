"""Drawing the next trial of a search, by Optuna."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from precise_shield.core.errors import ConfigError
from precise_shield.workflows.base.sections.gate import SearchSection

LOGARITHMIC = ("learning_rate", "p")
EVEN = ("kl_weight", "factor")
"""Settings that are drawn between the least and the greatest listed; others from the list."""
AGAIN = 10
"""A setting that was drawn before costs no trial; so many draws a trial are made at most."""


@dataclass(frozen=True)
class Drawn:
    """What came of a trial."""

    goals: tuple[float, float, float] | None
    """Safety and the two costs negated; larger is better. None if one of them is undefined."""
    broken: Mapping[str, float]
    """By how much each limit is broken; 0 or less where it is kept."""


def sampled(
    space: Mapping[str, list[float]],
    section: SearchSection,
    seed: int,
    ask: Callable[[dict[str, float]], Drawn],
) -> None:
    """Ask for as many different points as there are trials; the same ones for the same answers.

    The study is in memory: whoever asks keeps what a point gave, so that a search which was
    killed is replayed up to where it stopped.

    Raises:
        ConfigError: Optuna is not installed.
    """
    optuna = _optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(directions=["maximize"] * 3, sampler=_sampler(section, seed))
        seen: dict[tuple[float, ...], Drawn] = {}
        for _ in range(AGAIN * section.trials):
            if len(seen) == section.trials:
                break
            trial = study.ask()
            point = {name: _value(trial, name, values) for name, values in space.items()}
            key = tuple(point.values())
            if key not in seen:
                seen[key] = ask(point)
            found = seen[key]
            for name, excess in found.broken.items():
                trial.set_constraint(name, excess)
            if found.goals is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, list(found.goals))
    finally:
        optuna.logging.set_verbosity(before)


def _value(trial: Any, name: str, values: list[float]) -> float:
    choices = sorted(set(values))
    if len(choices) == 1:
        return choices[0]
    if name in LOGARITHMIC:
        drawn = float(trial.suggest_float(name, choices[0], choices[-1], log=True))
    elif name in EVEN:
        drawn = float(trial.suggest_float(name, choices[0], choices[-1]))
    else:
        return float(trial.suggest_categorical(name, choices))
    return min(max(float(f"{drawn:.3g}"), choices[0]), choices[-1])


def _sampler(section: SearchSection, seed: int) -> Any:
    optuna, first = _optuna(), max(2, min(10, section.trials // 2))
    if section.sampler == "tpe":
        return optuna.samplers.TPESampler(n_startup_trials=first, seed=seed)
    return optuna.samplers.NSGAIISampler(population_size=first, seed=seed)


def sampler_name(section: SearchSection, seed: int) -> str:
    """How the trials were drawn, in words."""
    if not section.trials:
        return "grid"
    kind = {"tpe": "TPE", "nsga2": "NSGA-II"}[section.sampler]
    return f"{kind} (Optuna {_optuna().__version__}), seed {seed}"


def _optuna() -> Any:
    try:
        return import_module("optuna")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "align.search.trials draws settings with Optuna, which is not installed. Install it"
            " with `pip install 'precise-shield[search]'`, or set trials to 0 to try every"
            " combination of what is listed."
        ) from error

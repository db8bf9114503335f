"""Neuron sets and training seeds as random factors: within a run, and over several runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from precise_shield.core.errors import ConfigError, StoreError
from precise_shield.core.rates import or_null
from precise_shield.core.records import Example, Verdict
from precise_shield.core.summary import Condition, ConditionKind, FactorRow
from precise_shield.evaluate.counting.factors import crossed_difference
from precise_shield.evaluate.counting.measures import MEASURES, Outcomes, outcomes
from precise_shield.workflows.answer import answers
from precise_shield.workflows.answer.judges import names_of, verdicts_of
from precise_shield.workflows.base.config import load_config

COMPARED: tuple[tuple[ConditionKind, ConditionKind], ...] = (
    ("aligned", "base"),
    ("aligned", "random_rows"),
    ("amplified", "random_amplified"),
    ("suppressed", "random_suppressed"),
)
"""An effect, and what it has to beat."""


@dataclass(frozen=True)
class Seen:
    """The judged answers of one run."""

    examples: Sequence[Example]
    conditions: Sequence[Condition]
    verdicts: Sequence[Verdict]
    rule: str


def factor_rows(runs: Sequence[Seen]) -> list[FactorRow]:
    """Every effect of several runs beside its control; only where a side has two runs or more."""
    return list(_rows(runs))


def _rows(runs: Sequence[Seen]) -> Iterator[FactorRow]:
    groups = {example.id: example.group for run in runs for example in run.examples}
    for measure in MEASURES:
        columns: dict[str, list[Outcomes]] = {}
        for run in runs:
            table = outcomes(run.examples, run.verdicts, measure, run.rule)
            for condition in run.conditions:
                columns.setdefault(condition.kind, []).append(table.get(condition.name, {}))
        for effect, control in COMPARED:
            sides = columns.get(effect, []), columns.get(control, [])
            if not all(sides) or max(map(len, sides)) < 2:
                continue
            found = crossed_difference(*sides, groups)
            if found.n:
                yield FactorRow(
                    effect=effect,
                    control=control,
                    measure=measure,
                    difference=or_null(found.difference),
                    low=or_null(found.low),
                    high=or_null(found.high),
                    runs=found.runs,
                    controls=found.controls,
                    groups=found.groups,
                    n=found.n,
                    unscored=found.unscored,
                )


def pool(folders: Sequence[Path]) -> list[FactorRow]:
    """Effects over several finished runs that differ in their seed, each run drawn at random.

    Raises:
        ConfigError: fewer than two runs, or runs that differ in more than name and seed.
        StoreError: a run was not evaluated, or two answered different test prompts.
    """
    if len(folders) < 2:
        raise ConfigError("pooling needs the folders of two runs or more.")
    configs = [load_config(folder / "config.yaml") for folder in folders]
    said = [config.model_dump(mode="json", exclude={"name", "seed"}) for config in configs]
    for folder, one in zip(folders[1:], said[1:], strict=True):
        if one != said[0]:
            parts = sorted(key for key in one if one[key] != said[0][key])
            raise ConfigError(
                f"{folder} and {folders[0]} differ in {', '.join(parts)}; only runs that differ in"
                " their seed can be pooled."
            )
    seeds = [config.seed for config in configs]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"the runs have seeds {seeds}; each must have its own.")
    runs = []
    for folder, config in zip(folders, configs, strict=True):
        kept, _ = answers.read(folder)
        judged = verdicts_of(answers.recall(folder), names_of(config)[0])
        every = [verdict for rows in judged.values() for verdict in rows]
        runs.append(Seen(kept.examples, kept.conditions, every, config.evaluate.rule))
    prompts = [sorted((e.id, e.prompt) for e in run.examples) for run in runs]
    if any(one != prompts[0] for one in prompts[1:]):
        raise StoreError(
            "the runs answered different test prompts, so that their seeds cannot be told from"
            " their prompts; evaluate them on the same manifest."
        )
    return factor_rows(runs)

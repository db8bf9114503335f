"""Study 1's settings: the frozen configuration, its trainings and its prompts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from precise_shield import api
from precise_shield.core.errors import NumericError
from precise_shield.core.records import Example
from precise_shield.core.summary import Measure
from precise_shield.data.gather import limited
from precise_shield.models.loading.model import LoadedModel
from precise_shield.workflows.align.arms import Arm, configured, make
from precise_shield.workflows.align.conditions import aligned_state
from precise_shield.workflows.align.plans import Plan, plans
from precise_shield.workflows.align.validation import standing, validation_prompts
from precise_shield.workflows.answer.states import State, base_state
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.openings import log_opening

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from measured import Row  # noqa: E402

RATES = (3e-3, 5e-3, 1e-2)
SEEDS = (0, 1, 2)
TEST = {"multijail": 48, "xstest": 40, "multiq": 8}
MEASURES: tuple[Measure, ...] = ("attack_success", "refusal_matched")
MOST = 0.2
"""Over-refusal on validation prompts that a picked setting may have."""

Settled = tuple[Run, dict[str, Plan]]
Rates = Mapping[str, tuple[float, tuple[int, ...]]]
"""Learning rate and seeds of the trainings of an arm."""


@dataclass(frozen=True)
class Study:
    """Where everything is."""

    data: Path
    model: str
    out: Path

    def opened(self, *changes: str) -> Run:
        """The study's configuration with some keys changed, in its one run folder."""
        names = ("polyrefuse",) * 4 + ("xstest",) * 2 + ("multijail", "multiq")
        where = [f"data.sources.{i}.path={self.data / name}" for i, name in enumerate(names)]
        where += [f"model.path={self.model}", "model.threads=1"]
        text = (HERE / "study.yaml").read_text(encoding="utf-8")
        return api.open_run(api.parse_config(text, [*where, *changes], "study"), self.out)


def trial(run: Run, plan: Plan, rate: float) -> Row:
    """One training, measured on validation prompts."""

    def read(where: State) -> Row:
        found, _ = standing(run, where, validation_prompts(run))
        return found.model_dump(exclude={"condition", "contrast"})

    return attempt(run, plan, rate, read)


def attempt(run: Run, plan: Plan, rate: float, read: Callable[[State], Row]) -> Row:
    """One training and what is read of it; a note where its loss did not stay finite."""
    row: Row = {"arm": plan.condition.name, "rate": rate}
    try:
        arm = make(run, plan, replace(configured(run), learning_rate=rate))
    except NumericError as error:
        return {**row, "note": str(error)[:60]}
    return {**row, **read(aligned_state(arm)), **size(arm)}


def size(arm: Arm) -> Row:
    """How much was trained."""
    receipt = arm.receipt
    return {"neurons": len(arm.neurons), "trained": receipt.trained_with_a}


def best(rows: Sequence[Row], arm: str = "aligned") -> Row:
    """The trial of an arm with the largest gap, those within `MOST` first."""
    known = [row for row in rows if row["arm"] == arm and isinstance(row.get("gap"), float)]
    return max(known, key=lambda row: (float(str(row["over_refusal"])) <= MOST, row["gap"]))


@cache
def loaded(study: Study) -> LoadedModel:
    """The model, once for all configurations."""
    return study.opened().loaded


@cache
def settled(study: Study, seed: int, rate: float = RATES[0], *changes: str) -> Settled:
    """The frozen configuration with one training seed and rate."""
    keys = [f"align.learning_rate={rate}", f"align.seed={seed}", "evaluate.kl_rows=16"]
    run = study.opened(*keys, *changes)
    run.loaded = loaded(study)
    return run, {plan.condition.name: plan for plan in plans(run, api.identify(run))}


def test_prompts(run: Run) -> list[Example]:
    """The test prompts: `TEST` of each set, chosen by hash."""
    rows = run.examples("test")
    log_opening(run, rows)
    parts = [limited([r for r in rows if r.source == name], most) for name, most in TEST.items()]
    return [row for part in parts for row in part]


def state(run: Run, plan: Plan, rate: float) -> State:
    """The model with an arm's training in it, at a learning rate."""
    return aligned_state(make(run, plan, replace(configured(run), learning_rate=rate)))


def trained(study: Study, rates: Rates) -> Iterator[tuple[int, str, Run, State]]:
    """Seed, kind of arm, run and state: the untouched model, then every training of `rates`."""
    for seed in SEEDS:
        run, made = settled(study, seed)
        if seed == 0:
            yield seed, "base", run, base_state()
        for kind, (rate, seeds) in rates.items():
            if seed in seeds:
                name = f"random-rows-{seed}" if kind == "random-rows" else kind
                yield seed, kind, run, state(run, made[name], rate)

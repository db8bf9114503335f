"""Where a run's trainings keep what none of them changes."""

from __future__ import annotations

from dataclasses import replace

import torch
import transformers

from precise_shield.align.frozen import CacheSpec
from precise_shield.align.parts import AllParameters
from precise_shield.align.spec import FitSpec
from precise_shield.core.store import digest
from precise_shield.workflows.align.plans import Plan
from precise_shield.workflows.base.context import Run

MIB = 2**20


def cache_of(run: Run, plan: Plan, spec: FitSpec) -> CacheSpec | None:
    """What `align.cache` asks for; None for nothing.

    On disk there is one folder for all trainings of a run that meet the same rows in the same
    first epoch: arms, searches and a training that goes on share it.
    """
    plain = limits(run)
    if plain is None:
        return None
    if isinstance(plan.form, AllParameters):
        run.reporter.say(f"cache: none for {plan.condition.name}, of which no part is frozen")
        return None
    if plain.folder is None:
        return plain
    made_by = run.made_by(
        plan.rows,
        order=digest([row.id for row in plan.rows]),
        rejected=digest(dict(plan.rejected)),
        rows_a_pass=spec.micro_batch,
        shuffled_by=spec.seed,
        device=str(run.loaded.device),
        torch=torch.__version__,
        transformers=transformers.__version__,
    )
    stage = run.store.stage("cache", made_by)
    return replace(plain, folder=stage.folder, made_by=stage.key)


def limits(run: Run) -> CacheSpec | None:
    """`align.cache` before its rows are known; on disk with the run's folder for a place."""
    section = run.config.align.cache
    if section.where == "off":
        return None
    folder = run.folder if section.where == "disk" else None
    return CacheSpec(folder, limit=section.limit_mb * MIB)

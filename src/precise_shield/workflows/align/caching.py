"""Where a run's trainings keep what none of them changes."""

from __future__ import annotations

import torch
import transformers

from precise_shield.align.frozen import CacheSpec
from precise_shield.align.parts import AllParameters
from precise_shield.align.spec import FitSpec
from precise_shield.core.store import digest
from precise_shield.workflows.align.plans import Plan
from precise_shield.workflows.base.context import Run


def cache_of(run: Run, plan: Plan, spec: FitSpec) -> CacheSpec | None:
    """What `align.cache` asks for; None for nothing.

    On disk there is one folder for all trainings of a run that meet the same rows in the same
    first epoch: arms, searches and a training that goes on share it.
    """
    section = run.config.align.cache
    limit = section.limit_mb * 2**20
    if section.where == "off":
        return None
    if isinstance(plan.form, AllParameters):
        run.reporter.say(f"cache: none for {plan.condition.name}, of which no part is frozen")
        return None
    if section.where == "memory":
        return CacheSpec(limit=limit)
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
    return CacheSpec(stage.folder, stage.key, limit)

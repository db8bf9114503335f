"""How much a training would keep under `align.cache`: a few of its batches, kept for real."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from precise_shield.align.delta import tuning
from precise_shield.align.frozen import CacheSpec, Kept
from precise_shield.align.sparse import undo
from precise_shield.align.spec import FitSpec
from precise_shield.core.errors import ConfigError, UnsupportedModelError
from precise_shield.core.parallel import crew
from precise_shield.core.records import Example
from precise_shield.workflows.align.arms import Shuffled, configured, spec_of
from precise_shield.workflows.align.caching import MIB, limits
from precise_shield.workflows.plan.probe import stand_ins
from precise_shield.workflows.plan.work import Probing, plan_of, trainings

SAMPLED = 4
"""Batches that are kept, of those with pictures and of those without; the rest counts as they."""


def keeping(run: Probing) -> dict[str, Any] | None:
    """What the largest training keeps, by where its neurons begin; None where nothing is to be.

    `mib_from_first_block`: neurons of the first block are trained, so that pictures and the base
    model's answers alone are kept. `mib_from_higher_block`: none of them is. Exact where there are
    no more batches than `SAMPLED` and no picture is met twice; a picture counts for every row.
    The model is as it came afterwards, and nothing is written.
    """
    section, cache = run.config.align.cache, limits(run)
    if cache is None:
        return None
    rows = max((each.rows for each in trainings(run)), key=len)
    spec = spec_of(run, len(rows), configured(run))
    passes = len(Shuffled(run, plan_of(run, rows), spec)(0))
    layers = sorted({site.layer for site in run.bound.sites if site.tower == "text"})[:2]
    found: dict[str, Any] = {"where": section.where, "limit_mib": section.limit_mb, "problem": None}
    for name, layer in (("first", layers[0]), ("higher", layers[-1])):
        try:
            size = kept(run, rows, spec, layer) if cache.pays(spec, passes) else 0
        except (ConfigError, UnsupportedModelError, torch.OutOfMemoryError) as error:
            return {**found, "problem": f"align.cache: {error}"}
        found[f"mib_from_{name}_block"] = size / MIB
    if not cache.holds(size):
        found["problem"] = (
            f"align.cache: {told(found)}. What is over the limit is refused before it is trained."
            " Mend: raise align.cache.limit_mb, or set align.cache.where: off."
        )
    return found


def kept(run: Probing, rows: Sequence[Example], spec: FitSpec, layer: int) -> float:
    """Bytes kept of a training on these rows whose lowest neurons are in `layer`."""
    form, neurons = stand_ins(run, layer)
    total = 0.0
    with tuning(run.bound, neurons, form, seed=spec.seed) as deltas:
        for seeing in (True, False):
            kind = [row for row in rows if (row.image is not None) == seeing]
            if not kind:
                continue
            items = Shuffled(run, plan_of(run, kind), spec)(0)
            some = [items[i] for i in range(0, len(items), -(-len(items) // SAMPLED))]
            shelf = Kept(deltas, spec, CacheSpec(limit=2**62), crew(), lambda _: None)
            shelf.fill(some)
            a_row = 2 if spec.objective == "dpo" else 1
            total += shelf.size * len(kind) * a_row / sum(batch.rows for batch in some)
    undo(run.bound, deltas.sparse())
    return total


def told(found: dict[str, Any]) -> str:
    """The sizes in words."""
    first, higher = found["mib_from_first_block"], found["mib_from_higher_block"]
    if not higher:
        return "nothing is kept, for no training meets a row twice"
    return (
        f"about {first:,.1f} MiB a training where neurons of the first block are trained, up to"
        f" {higher:,.1f} where none of them is (limit {found['limit_mib']:,}, {found['where']})"
    )

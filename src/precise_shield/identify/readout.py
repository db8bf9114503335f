"""What a neuron writes, and which prompts drive it most, by id only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precise_shield.core.sites import NeuronSet, Site
from precise_shield.identify.stats import Position, Stats
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.holding.held import without_gradients
from precise_shield.models.passes.taps import tapped
from precise_shield.models.readings.lens import direct_logits

EPSILON = 1e-12


@dataclass(frozen=True)
class Picked:
    """A neuron, how strongly harmful requests drive it, and which way."""

    site: Site
    unit: int
    strength: float
    """Mean over languages and modalities of its share of the site's importance for harmful
    requests, minus the same for benign ones."""
    sign: int
    """Sign of its mean activation on harmful requests: it writes its column times this."""


def strongest(stats: Stats, neurons: NeuronSet, position: Position, limit: int) -> list[Picked]:
    """The neurons of a set that matter most more for harmful than for benign requests.

    Importance is `|mean activation| x column norm`, as a share of its site (Precise Shield,
    arXiv 2604.08881, Eq. 4-6). Units that write nothing themselves (query, key) are left out.
    """
    found = []
    for site, ids in neurons.units.items():
        if site.tower != "text" or site.kind in ("query", "key"):
            continue
        shares: dict[str, list[Tensor]] = {"harmful": [], "benign": []}
        means = []
        for cell in stats.cells:
            moments = stats.at(site, cell, position)
            if not moments.count.any():
                continue
            mean = moments.pooled().mean
            importance = mean.abs() * stats.norms[site]
            shares[cell.harm].append(importance / (importance.sum() + EPSILON))
            if cell.harm == "harmful":
                means.append(mean)
        if not shares["harmful"] or not shares["benign"]:
            continue
        gap = torch.stack(shares["harmful"]).mean(0) - torch.stack(shares["benign"]).mean(0)
        signed = torch.stack(means).mean(0)
        found += [
            Picked(site, unit, float(gap[unit]), 1 if float(signed[unit]) >= 0 else -1)
            for unit in ids
        ]
    return sorted(found, key=lambda one: (-one.strength, one.site, one.unit))[:limit]


def written(bound: BoundModel, picked: Sequence[Picked], top: int) -> list[list[tuple[int, float]]]:
    """The output tokens each neuron argues for most, with the direct logit: `(token, logit)`.

    What is written is the neuron's column of the down-projection (or output projection) times
    the sign with which harmful requests drive it; see `models.readings.lens.direct_logits`.
    """
    rows = []
    for one in picked:
        column = bound.sites[one.site].written([one.unit]) * one.sign
        best = direct_logits(bound, column)[0].topk(top)
        rows.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
    return rows


@dataclass(frozen=True)
class Asked:
    """One batch of prompts: how to run it, where to read, and the examples' ids."""

    run: Callable[[], object]
    place: Int[Tensor, " batch"]
    ids: list[str]


def drivers(
    bound: BoundModel, picked: Sequence[Picked], batches: Iterable[Asked], keep: int
) -> list[list[tuple[str, float]]]:
    """For each neuron the examples that drive it most, strongest first: `(id, activation)`.

    Activations count in the direction of `Picked.sign`; the number given is the activation itself.
    Memory is the `keep` best of each neuron, however many prompts there are.
    """
    best: list[list[tuple[float, str]]] = [[] for _ in picked]
    sites = {one.site for one in picked}
    for batch in batches:
        seen = _activations(bound, sites, batch)
        for k, one in enumerate(picked):
            acts = (seen[one.site][:, one.unit] * one.sign).tolist()
            pairs = [*best[k], *zip(acts, batch.ids, strict=True)]
            best[k] = nlargest(keep, pairs, key=lambda pair: (pair[0], pair[1]))
    return [
        [(name, one.sign * value) for value, name in rows]
        for one, rows in zip(picked, best, strict=True)
    ]


@without_gradients()
def _activations(
    bound: BoundModel, sites: Iterable[Site], batch: Asked
) -> dict[Site, Float[Tensor, "batch width"]]:
    seen: dict[Site, Tensor] = {}

    def fn(site: Site, acts: Tensor) -> None:
        rows = torch.arange(len(batch.ids), device=acts.device)
        seen[site] = acts[rows, batch.place.to(acts.device)].float().cpu()

    with tapped(bound.only(sites), fn):
        batch.run()
    return seen

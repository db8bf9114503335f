"""Control sets: as many other neurons at the same sites, for an effect to beat."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.errors import ConfigError, LayoutMismatchError, NumericError
from precise_shield.core.sites import NeuronSet, Site

Features = Mapping[Site, Float[Tensor, "_ k"]]
"""What a control has to share with the neuron it stands for, e.g. column norm and benign mean."""

NEAREST = 8
"""A matched control is one of this many nearest candidates: seeds differ, matches stay close."""


def matched_random(
    neurons: NeuronSet,
    widths: Mapping[Site, int],
    *,
    seed: int,
    features: Features | None = None,
    exclude: NeuronSet | None = None,
    nearest: int = NEAREST,
) -> NeuronSet:
    """Draw, site by site, as many neurons from the complement of `neurons`.

    Without `features` the draw is uniform. With them every chosen neuron, in random order,
    gets one of the `nearest` candidates left (Euclidean distance over columns z-scored within
    the site), so the control has nearly the same distribution of those features. What a site
    gets depends on `seed` and on that site alone.

    Shapes: `features[site]` is `[width, k]`, in any units; constant columns do not count.

    Args:
        neurons: the set to stand against; an empty one gives an empty control.
        widths: units of every site of `neurons`.
        seed: equal seeds give equal controls.
        features: columns to match on; None for a uniform draw.
        exclude: further neurons that may not be drawn (other safety sets, say).
        nearest: 1 takes the nearest itself, and then seeds differ only in the order.

    Raises:
        LayoutMismatchError: a neuron lies outside `widths`, or `features` has another height.
        ConfigError: a site has too few other neurons, or `nearest` is below 1.
        NumericError: a feature is NaN or infinite.

    Source: the layer-wise random control of Precise Shield, section 4.3; matching by
        importance as in *Who Bridges Safety?*.
    """
    if nearest < 1:
        raise ConfigError(f"nearest is {nearest}; a control needs at least 1 candidate.")
    barred = neurons if exclude is None else neurons | exclude
    drawn: dict[Site, Sequence[int]] = {}
    for site, ids in neurons.units.items():
        width = _checked_width(site, ids, widths)
        taken = set(barred.units.get(site, ()))
        pool = [unit for unit in range(width) if unit not in taken]
        if len(pool) < len(ids):
            raise ConfigError(
                f"{site} has {len(ids)} chosen neurons and only {len(pool)} others to draw a"
                " control from. Choose fewer neurons (a lower p) or exclude fewer."
            )
        rng = random.Random(f"{seed}/{site}")
        if features is None:
            drawn[site] = rng.sample(pool, len(ids))
        else:
            drawn[site] = _nearest(_scaled(features, site, width), ids, pool, nearest, rng)
    return NeuronSet.of(drawn)


def imbalance(neurons: NeuronSet, controls: Sequence[NeuronSet], features: Features) -> list[float]:
    """How far controls lie from the chosen neurons in each feature that they were matched on.

    Mean over controls and chosen neurons of (control minus chosen) in standard deviations of the
    feature at its site; negative where controls have less of it. Where most of a site's strong
    neurons are chosen, no control can match them. Empty without neurons or controls.
    """
    if not neurons or not controls:
        return []
    gaps: list[Tensor] = []
    for site, ids in neurons.units.items():
        table = _scaled(features, site, len(features[site]))
        chosen = table[list(ids)].mean(0)
        drawn = torch.stack([table[list(one.units[site])].mean(0) for one in controls])
        gaps.append((drawn.mean(0) - chosen) * len(ids))
    found: list[float] = (torch.stack(gaps).sum(0) / len(neurons)).tolist()
    return found


def _checked_width(site: Site, ids: Sequence[int], widths: Mapping[Site, int]) -> int:
    if site not in widths:
        raise LayoutMismatchError(
            f"this model has no site {site}; it has {len(widths)} sites."
            " The neurons belong to another model."
        )
    if ids[-1] >= widths[site]:
        raise LayoutMismatchError(
            f"neuron {ids[-1]} of {site} does not exist: the site has {widths[site]} units."
            " The neurons belong to another model."
        )
    return widths[site]


def _scaled(features: Features, site: Site, width: int) -> Float[Tensor, "width k"]:
    if site not in features or len(features[site]) != width:
        seen = "none" if site not in features else f"{len(features[site])} rows"
        raise LayoutMismatchError(
            f"features of {site}: expected {width} rows, one a unit, got {seen}."
        )
    table = features[site].detach().to("cpu", torch.float64)
    if not torch.isfinite(table).all():
        bad = int((~torch.isfinite(table)).any(1).sum())
        raise NumericError(
            f"features of {site} are NaN or infinite in {bad} of {width} units."
            " Collect them on data that every cell has, or match on other columns."
        )
    spread = table.std(0, unbiased=False)
    return (table - table.mean(0)) / torch.where(spread > 0, spread, 1.0)


def _nearest(
    table: Float[Tensor, "width k"],
    ids: Sequence[int],
    pool: Sequence[int],
    nearest: int,
    rng: random.Random,
) -> list[int]:
    order = rng.sample(list(ids), len(ids))
    distances = torch.cdist(table[order], table[list(pool)])  # [chosen, pool]
    left = torch.ones(len(pool), dtype=torch.bool)
    picked: list[int] = []
    for row in distances:
        few = min(nearest, int(left.sum()))
        ranked = row.masked_fill(~left, float("inf")).topk(few, largest=False).indices.tolist()
        choice = ranked[rng.randrange(few)]
        left[choice] = False
        picked.append(pool[choice])
    return picked

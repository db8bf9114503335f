"""Random neurons for an effect to beat: same layers, like column norm, like benign activation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.controls import matched_random
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.stage import Atlas

MATCHED_ON = ("column norm", "benign activation")
"""What `features` holds, column by column."""


def features(run: Run) -> dict[Site, Float[Tensor, "width k"]]:
    """What a control shares with the neuron it stands for.

    Shapes: `[width, 2]`: log of the down-projection column's norm, and mean absolute
        activation on benign probing examples, averaged over their cells.
    """
    stats = collect_stats(run).stats()
    benign = [cell for cell in stats.cells if cell.harm == "benign"]
    position = run.config.identify.position
    rows = {}
    for site, norms in stats.norms.items():
        here = [stats.at(site, cell, position) for cell in benign]
        seen = [moments.pooled().magnitude for moments in here if moments.count.any()]
        rows[site] = torch.stack([norms.clamp(min=1e-12).log(), torch.stack(seen).mean(0)], dim=1)
    return rows


def control(
    run: Run,
    atlas: Atlas,
    neurons: NeuronSet,
    seed: int,
    matched: dict[Site, Float[Tensor, "width k"]] | None = None,
) -> NeuronSet:
    """As many other neurons at the same sites as `neurons`, matched on `features`."""
    columns = features(run) if matched is None else matched
    return matched_random(
        neurons, atlas.widths, seed=1000 * run.config.seed + seed, features=columns
    )

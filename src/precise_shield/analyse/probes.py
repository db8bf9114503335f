"""Closed-form linear probes, their AUC, its interval, and what shuffled labels would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from precise_shield.core.rates import Z95

Stack = Float[Tensor, "rows layers width"]


@dataclass(frozen=True)
class Arms:
    """Rows of one side of a probe: what is fitted on, or what is tested on.

    Shapes: `states` is `[rows, layers, width]`; `harmful` and `groups` have one entry a row.
    """

    states: Stack
    harmful: Bool[Tensor, " rows"]
    groups: Sequence[str]

    def count(self, harmful: bool) -> int:
        """Groups of one harm."""
        rows = zip(self.groups, self.harmful.tolist(), strict=True)
        return len({group for group, label in rows if label == harmful})


def shuffled_labels(
    arms: Arms, keys: dict[str, Float[Tensor, " draws"]]
) -> Bool[Tensor, "draws fitted"]:
    """Labels exchanged between groups: as many groups are harmful in every draw as there are.

    `keys[group]` are random numbers; the groups with the highest become harmful. Keys that are
    shared between languages shuffle translations of one request alike. Of a group that holds both
    harms each side is shuffled by itself, half a turn of the random number apart.
    """
    sides = list(zip(arms.groups, arms.harmful.tolist(), strict=True))
    units = sorted(set(sides))
    place = {unit: i for i, unit in enumerate(units)}
    turned = [
        keys[name] if harm or (name, True) not in place else (keys[name] + 0.5) % 1
        for name, harm in units
    ]
    ranked = torch.stack(turned, 1).argsort(1, descending=True)
    labels = torch.zeros(ranked.shape, dtype=torch.bool)
    labels.scatter_(1, ranked[:, : arms.count(True)], value=True)
    return labels[:, [place[side] for side in sides]]


def probe_scores(
    fit: Arms, test: Stack, labels: Bool[Tensor, "draws fitted"], shrinkage: float
) -> Float[Tensor, "layers draws tested"]:
    """Score test rows by a ridge probe a layer, one for each labelling of the fitted rows.

    Features are z-scored on the fitted rows; targets are +1/n and -1/n of their class, so that
    classes weigh alike. The penalty is `shrinkage` times the mean eigenvalue of the covariance
    between rows. That is Fisher's discriminant with a shrunken covariance, solved in the space of
    rows: a layer costs one `[rows, rows]` system however wide the model is.

    Source: Hoerl & Kennard (1970), Technometrics 12, 55-67; Ledoit & Wolf (2004) for shrinkage
        towards the mean eigenvalue.
    """
    mean, spread = fit.states.mean(0), fit.states.std(0, unbiased=False)
    scale = torch.where(spread > 1e-6 * spread.amax(-1, keepdim=True), spread, torch.inf)
    known = ((fit.states - mean) / scale).transpose(0, 1).double()  # [layers, rows, width]
    asked = ((test - mean) / scale).transpose(0, 1).double()
    between = known @ known.transpose(1, 2)
    size = len(fit.harmful)
    ridge = shrinkage * between.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    system = between + ridge[:, None, None] * torch.eye(size, dtype=torch.float64)
    ones = labels.double()
    inside, outside = ones.sum(1, keepdim=True), (1 - ones).sum(1, keepdim=True)
    targets = ones / inside - (1 - ones) / outside  # [draws, rows]
    weights = torch.linalg.solve(system, targets.T.expand(len(system), -1, -1))
    scores: Tensor = asked @ known.transpose(1, 2) @ weights
    return scores.transpose(1, 2)


def wins(
    scores: Float[Tensor, "*some tested"], harmful: Bool[Tensor, " tested"]
) -> Float[Tensor, "*some ones zeros"]:
    """1 where a harmful row scores above a benign one, 1/2 where they tie."""
    ones, zeros = scores[..., harmful], scores[..., ~harmful]
    gap = ones[..., :, None] - zeros[..., None, :]
    return (gap > 0).float() + 0.5 * (gap == 0).float()


def aucs(
    scores: Float[Tensor, "layers draws tested"], harmful: Bool[Tensor, " tested"]
) -> Float[Tensor, "layers draws"]:
    """AUC of every layer and labelling, layer by layer to bound memory."""
    return torch.stack([wins(layer, harmful).mean((-1, -2)) for layer in scores]).double()


def auc_interval(auc: float, ones: int, zeros: int) -> tuple[float, float]:
    """95 % interval of an AUC; it has width at 0 and 1 as well. NaN without both kinds.

    Source: Newcombe (2006), "Confidence intervals for an effect size measure based on the
        Mann-Whitney statistic, part 2", Statistics in Medicine 25, 559-573, method 5.
    """
    if ones < 1 or zeros < 1 or auc != auc:
        return nan, nan
    half = (ones + zeros) / 2 - 1

    def spread(theta: float) -> float:
        inner = half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return Z95 * sqrt(theta * (1 - theta) * (1 + inner) / (ones * zeros))

    def edge(outer: float) -> float:
        """Between the estimate and `outer`, where the distance is as large as the spread."""
        near, far = auc, outer
        for _ in range(60):
            middle = (near + far) / 2
            if abs(middle - auc) < spread(middle):
                near = middle
            else:
                far = middle
        return (near + far) / 2

    return edge(0.0), edge(1.0)


def resampled(
    tables: Sequence[Float[Tensor, "layers _ _"]],
    groups: Sequence[tuple[Sequence[str], Sequence[str]]],
    draws: int,
    seed: int,
) -> Float[Tensor, "draws layers"]:
    """Mean AUC over cells when whole groups are drawn with replacement, alike in all cells.

    `tables` are the cells' `wins`; `groups` name the groups of their rows and columns. A cell of
    which a draw holds nothing is left out of that draw's mean; NaN where that leaves none.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for side in range(2):
        names = sorted({name for pair in groups for name in pair[side]})
        picks = torch.randint(len(names), (draws, len(names)), generator=generator)
        counts = torch.nn.functional.one_hot(picks, len(names)).sum(1).double()
        weights |= dict(zip(names, counts.T, strict=True))
    cells = []
    for table, (ones, zeros) in zip(tables, groups, strict=True):
        above = torch.stack([weights[name] for name in ones], 1)
        below = torch.stack([weights[name] for name in zeros], 1)
        total = above.sum(1) * below.sum(1)
        hits = torch.einsum("do,loz,dz->dl", above, table.double(), below)
        cells.append(hits / total[:, None])
    return torch.stack(cells).nanmean(0)

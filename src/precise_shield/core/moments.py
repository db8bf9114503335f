"""Statistics of every unit of one site, streamed: memory does not grow with the data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precise_shield.core.errors import NumericError

FOLDS = 16
"""Examples are dealt to this many folds by group, for bootstrap, split-half and permutation."""


@dataclass
class Moments:
    """Mean, variance, mean absolute value and positive rate of each unit, fold by fold.

    Two `Moments` filled on separate shards and merged equal one filled on both, up to
    float64 rounding. One row is one example: average over its tokens first.

    Shapes: `count` is `[folds]`; `mean`, `m2`, `magnitude` and `positive` are
        `[folds, width]`, float64, on CPU.
    Units: activations in the model's own scale; `m2` is a sum of squared deviations;
        `positive` is a share of rows; `count` in rows.
    Source: Chan, Golub & LeVeque (1979), "Updating Formulae and a Pairwise Algorithm
        for Computing Sample Variances", STAN-CS-79-773, eq. 2.1.
    """

    width: int
    folds: int = FOLDS
    count: Int[Tensor, " folds"] = field(init=False)
    mean: Float[Tensor, "folds width"] = field(init=False)
    m2: Float[Tensor, "folds width"] = field(init=False)
    magnitude: Float[Tensor, "folds width"] = field(init=False)
    positive: Float[Tensor, "folds width"] = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.folds, self.width)
        self.count = torch.zeros(self.folds, dtype=torch.int64)
        self.mean, self.m2 = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        self.magnitude, self.positive = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))

    def update(self, rows: Float[Tensor, "rows width"], folds: Int[Tensor, " rows"]) -> None:
        """Fold in one row an example. No rows change nothing.

        Raises:
            NumericError: a row holds NaN or infinity.
        """
        if not torch.isfinite(rows).all():
            bad = (~torch.isfinite(rows)).any(0).nonzero().flatten().tolist()
            raise NumericError(
                f"activations are NaN or infinite in {len(bad)} of {self.width} units, the first"
                f" {bad[:4]}. Load the model in bfloat16 or float32, or check its weights."
            )
        rows = rows.detach().to("cpu", torch.float64)
        for fold in sorted(set(folds.tolist())):
            part = rows[folds.cpu() == fold]
            self._absorb(
                fold,
                len(part),
                part.mean(0),
                (part - part.mean(0)).square().sum(0),
                part.abs().mean(0),
                (part > 0).double().mean(0),
            )

    def merge(self, other: Moments) -> None:
        """Absorb another shard's statistics; `other` is left as it was."""
        if (other.width, other.folds) != (self.width, self.folds):
            raise ValueError(
                f"cannot merge {other.folds} x {other.width} into {self.folds} x {self.width}"
            )
        for fold, count in enumerate(other.count.tolist()):
            self._absorb(
                fold,
                count,
                other.mean[fold],
                other.m2[fold],
                other.magnitude[fold],
                other.positive[fold],
            )

    def _absorb(
        self, fold: int, count: int, mean: Tensor, m2: Tensor, magnitude: Tensor, positive: Tensor
    ) -> None:
        total = int(self.count[fold]) + count
        if count == 0:
            return
        share, delta = count / total, mean - self.mean[fold]
        self.m2[fold] += m2 + delta.square() * (int(self.count[fold]) * share)
        self.mean[fold] += delta * share
        self.magnitude[fold] += (magnitude - self.magnitude[fold]) * share
        self.positive[fold] += (positive - self.positive[fold]) * share
        self.count[fold] = total

    def pooled(self, weights: Float[Tensor, "*draws folds"] | None = None) -> Pooled:
        """All folds as one, or weighted mixtures of them (bootstrap draws, halves).

        `weights[..., f]` says how often fold f is taken; None takes each once. The variance
        treats a fold that is taken twice as twice as many rows.
        """
        take = torch.ones(self.folds, dtype=torch.float64) if weights is None else weights.double()
        mass = take * self.count
        total = mass.sum(-1, keepdim=True)
        share = mass / total  # NaN where nothing is taken
        mean = share @ self.mean
        spread = take @ self.m2
        for fold in range(self.folds):
            spread = spread + mass[..., fold, None] * (self.mean[fold] - mean).square()
        var = torch.where(total > 1, spread / (total - 1), float("nan"))
        magnitude, positive = share @ self.magnitude, share @ self.positive
        return Pooled(total, mean, var, magnitude, positive)

    @classmethod
    def stacked(cls, first: Moments, second: Moments) -> Moments:
        """Both sets of folds side by side, so that one draw can mix them."""
        out = cls(first.width, folds=first.folds + second.folds)
        for name in ("count", "mean", "m2", "magnitude", "positive"):
            setattr(out, name, torch.cat([getattr(first, name), getattr(second, name)]))
        return out


@dataclass(frozen=True)
class Pooled:
    """What the folds of a `Moments` say together, for one draw or many.

    Shapes: `[..., width]`, float64; `count` is `[..., 1]`. Everything is NaN when there is no
    row, and `var`, the unbiased variance, below two.
    """

    count: Float[Tensor, "*draws 1"]
    mean: Float[Tensor, "*draws width"]
    var: Float[Tensor, "*draws width"]
    magnitude: Float[Tensor, "*draws width"]
    positive: Float[Tensor, "*draws width"]

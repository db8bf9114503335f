"""Statistics of every unit of one site, streamed: memory does not grow with the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precise_shield.core.errors import NumericError
from precise_shield.core.parallel import Crew

FOLDS = 16
"""Examples are dealt to this many folds by group, for bootstrap, split-half and permutation."""

FIELDS = ("count", "mean", "m2", "magnitude", "positive")
"""The tensors of a `Moments`, as files name them."""


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
        if not len(rows):
            return
        rows = rows.detach().to("cpu", torch.float64)
        where, index = torch.unique(folds.cpu(), return_inverse=True)
        count = torch.bincount(index)

        def averaged(values: Tensor) -> Tensor:
            total = torch.zeros(len(where), self.width, dtype=torch.float64)
            return total.index_add_(0, index, values) / count[:, None]

        mean = averaged(rows)
        m2 = averaged((rows - mean[index]).square()) * count[:, None]
        self._absorb(where, count, mean, m2, averaged(rows.abs()), averaged((rows > 0).double()))

    def merge(self, other: Moments) -> None:
        """Absorb another shard's statistics; `other` is left as it was."""
        if (other.width, other.folds) != (self.width, self.folds):
            raise ValueError(
                f"cannot merge {other.folds} x {other.width} into {self.folds} x {self.width}"
            )
        where = other.count.nonzero().flatten()
        self._absorb(
            where,
            other.count[where],
            other.mean[where],
            other.m2[where],
            other.magnitude[where],
            other.positive[where],
        )

    def add_up(self, team: Crew) -> None:
        """Put the statistics of all processes together; each of them ends with the whole.

        Sums first, then squared deviations from the common mean: Chan's merge of all at once.
        """
        own = self.count.double()[:, None]
        sums = torch.stack([self.mean, self.magnitude, self.positive]) * own
        message = torch.cat([own.flatten(), sums.flatten()])
        team.add(message)
        count, sums = message[: self.folds], message[self.folds :].view_as(sums)
        mean, magnitude, positive = sums / count.clamp(min=1)[:, None]
        self.m2 += own * (self.mean - mean).square()
        team.add(self.m2)
        self.count = count.long()
        self.mean, self.magnitude, self.positive = mean, magnitude, positive

    def _absorb(
        self,
        where: Tensor,
        count: Tensor,
        mean: Tensor,
        m2: Tensor,
        magnitude: Tensor,
        positive: Tensor,
    ) -> None:
        """Chan's update of the folds `where`, each with at least one new row."""
        old = self.count[where]
        share = (count / (old + count)).double()[:, None]
        delta = mean - self.mean[where]
        self.m2[where] += m2 + delta.square() * (old[:, None] * share)
        self.mean[where] += delta * share
        self.magnitude[where] += (magnitude - self.magnitude[where]) * share
        self.positive[where] += (positive - self.positive[where]) * share
        self.count[where] += count

    def part(self, start: int, stop: int) -> Moments:
        """A view of some of the folds: it shares their memory."""
        out = Moments.__new__(Moments)
        out.width, out.folds = self.width, stop - start
        for name in FIELDS:
            setattr(out, name, getattr(self, name)[start:stop])
        return out

    def pooled(self, weights: Float[Tensor, "*draws folds"] | None = None) -> Pooled:
        """All folds as one, or weighted mixtures of them (bootstrap draws, halves).

        `weights[..., f]` says how often fold f is taken; None takes each once. The variance
        treats a fold that is taken twice as twice as many rows.
        """
        take = torch.ones(self.folds, dtype=torch.float64) if weights is None else weights.double()
        return Pooled(self, take)

    @classmethod
    def stacked(cls, first: Moments, second: Moments) -> Moments:
        """Both sets of folds side by side, so that one draw can mix them."""
        out = cls(first.width, folds=first.folds + second.folds)
        for name in FIELDS:
            setattr(out, name, torch.cat([getattr(first, name), getattr(second, name)]))
        return out


@dataclass(frozen=True, eq=False)
class Pooled:
    """What the folds of a `Moments` say together, for one draw or many, computed when asked.

    Shapes: `[..., width]`, float64; `count` is `[..., 1]`. Everything is NaN when there is no
    row, and `var`, the unbiased variance, below two.
    """

    moments: Moments
    take: Float[Tensor, "*draws folds"]

    @cached_property
    def count(self) -> Float[Tensor, "*draws 1"]:
        """Rows that were taken."""
        return (self.take * self.moments.count).sum(-1, keepdim=True)

    def _averaged(self, values: Float[Tensor, "folds width"]) -> Float[Tensor, "*draws width"]:
        return (self.take * self.moments.count / self.count) @ values

    @cached_property
    def mean(self) -> Float[Tensor, "*draws width"]:
        """Mean activation."""
        return self._averaged(self.moments.mean)

    @cached_property
    def magnitude(self) -> Float[Tensor, "*draws width"]:
        """Mean of the absolute activation."""
        return self._averaged(self.moments.magnitude)

    @cached_property
    def positive(self) -> Float[Tensor, "*draws width"]:
        """Share of rows with an activation above 0."""
        return self._averaged(self.moments.positive)

    @cached_property
    def var(self) -> Float[Tensor, "*draws width"]:
        """Unbiased variance, between the folds and within them."""
        mass, spread = self.take * self.moments.count, self.take @ self.moments.m2
        for fold in range(self.moments.folds):
            apart = (self.moments.mean[fold] - self.mean).square()
            spread = spread + mass[..., fold, None] * apart
        return torch.where(self.count > 1, spread / (self.count - 1), float("nan"))

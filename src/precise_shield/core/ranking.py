"""Ranks and rank correlation, ties shared, for many rows at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def average_ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Ranks from 1 up; equal values share the mean of the ranks that they take up."""
    _, where, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts.double() - 1) / 2)[where]
    return ranks


def spearman(rows: Float[Tensor, "rows n"]) -> Float[Tensor, "rows rows"]:
    """Rank correlation of every pair of rows; NaN where a row is constant.

    Source: Spearman (1904), with average ranks for ties.
    """
    ranks = torch.stack([average_ranks(row) for row in rows])
    ranks = ranks - ranks.mean(1, keepdim=True)
    length = ranks.square().sum(1).sqrt()
    return (ranks @ ranks.T) / (length[:, None] * length[None, :])

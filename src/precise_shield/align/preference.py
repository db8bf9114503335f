"""Learning from pairs: the answer to give raised above the one not to give, against the base."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from precise_shield.align.losses import Answers, TrainBatch
from precise_shield.core.errors import DataError


def row_logprobs(said: Answers, batch: TrainBatch) -> Float[Tensor, " batch"]:
    """Log-probability of each row's answer, in nats, summed over its tokens."""
    rows = batch.predicting().nonzero()[:, 0].to(said.logits.device)
    each = -F.cross_entropy(said.logits, said.targets, reduction="none")
    return torch.zeros(batch.rows, device=each.device, dtype=each.dtype).index_add(0, rows, each)


def dpo(
    now: Float[Tensor, " batch"], base: Float[Tensor, " batch"], beta: float
) -> Float[Tensor, ""]:
    """Direct preference loss, summed over pairs; rows 2i are to be given, rows 2i + 1 are not.

    Args:
        now: log-probabilities under the model in training.
        base: the same under the base model.
        beta: how fast a preference saturates, per nat.

    Raises:
        DataError: an odd number of rows.

    Source: Rafailov et al. (arXiv 2305.18290), Eq. 7.
    """
    if len(now) % 2:
        raise DataError(f"{len(now)} rows are no pairs; give each answer with its rejected twin.")
    gained = now - base
    margin = gained[0::2] - gained[1::2]
    return -F.logsigmoid(beta * margin).sum()

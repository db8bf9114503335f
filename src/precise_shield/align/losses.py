"""What a batch teaches: the answer's tokens, and how far benign answers may drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from precise_shield.core.errors import DataError
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.inputs.encoding import IGNORED
from precise_shield.models.readings.head import answer_logits, head, hidden_states, predicting

IGNORE = IGNORED
"""Label of every position that is not part of the answer."""

Reduction = Literal["sum", "mean"]
"""`sum`: tokens summed within an example, examples averaged (Precise Shield, Eq. 12).
`mean`: averaged over all answer tokens of a step."""


@dataclass(frozen=True)
class TrainBatch:
    """Encoded rows: what one forward pass takes.

    Shapes: `labels` is `[batch, pos]`: the token itself where the answer stands, -100 elsewhere
        (prompt, pictures, padding). `benign` is `[batch]`.
    """

    inputs: Mapping[str, Tensor]
    """Arguments of the model's forward pass; `use_cache` is switched off for them."""
    labels: Int[Tensor, "batch pos"]
    benign: Bool[Tensor, " batch"]
    """Rows whose answers must stay what the base model gives, when KL is asked for."""
    pictures: tuple[str, ...] = ()
    """What each row's picture is called, "" without one: equal names mean equal pictures. Only a
    cache asks for them."""

    @property
    def rows(self) -> int:
        """Examples in the batch."""
        return len(self.labels)

    def to(self, device: torch.device) -> TrainBatch:
        """The same batch on another device."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        labels, benign = self.labels.to(device), self.benign.to(device)
        return TrainBatch(inputs, labels, benign, self.pictures)

    def predicting(self) -> Bool[Tensor, "batch pos"]:
        """The positions whose next token is part of the answer."""
        return predicting(self.labels)

    def tokens(self) -> int:
        """Answer tokens that can be predicted.

        Raises:
            DataError: a row has none, so that it would teach nothing without saying so.
        """
        each = self.predicting().sum(1)
        if not bool(each.all()):
            empty = (each == 0).nonzero().flatten().tolist()
            raise DataError(
                f"rows {empty} of a batch of {self.rows} have no answer token. Give every row a"
                " target, and a context long enough to hold it."
            )
        return int(each.sum())


@dataclass(frozen=True)
class Answers:
    """What the model says at the positions that predict answer tokens, and what it should say.

    Shapes: one entry a predicting position, batch row by batch row: `logits` is float32.
    """

    logits: Float[Tensor, "tokens vocab"]
    targets: Int[Tensor, " tokens"]
    benign: Bool[Tensor, " tokens"]

    def nll(self) -> Float[Tensor, ""]:
        """Negative log-likelihood of the targets, in nats, summed over all tokens."""
        return F.cross_entropy(self.logits, self.targets, reduction="sum")


def answers(bound: BoundModel, batch: TrainBatch) -> Answers:
    """Run the backbone, and the output head on answer positions only.

    Exact: equal to the head on all positions with the others thrown away, at a fraction of
    the memory, for answers are short and vocabularies large.
    """
    logits, _ = answer_logits(bound, batch.inputs, batch.labels)
    return said_at(batch, batch.predicting(), logits)


def said_at(
    batch: TrainBatch, mask: Bool[Tensor, "batch pos"], logits: Float[Tensor, "tokens vocab"]
) -> Answers:
    """Logits at the predicting positions `mask`, beside what they should say."""
    targets = batch.labels[:, 1:][mask[:, :-1]]
    benign = batch.benign[:, None].expand_as(mask)[mask]
    return Answers(logits, targets.to(logits.device), benign.to(logits.device))


@torch.no_grad()
def benign_logits(bound: BoundModel, batch: TrainBatch) -> Float[Tensor, "tokens vocab"]:
    """Logits at the answer positions of the benign rows alone, without gradients."""
    mask = batch.predicting() & batch.benign[:, None]
    hidden = hidden_states(bound, batch.inputs)
    return head(bound, hidden[mask.to(hidden.device)])


def kl_to(
    base: Float[Tensor, "tokens vocab"], logits: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, ""]:
    """KL(base ‖ tuned) in nats, summed over tokens."""
    return F.kl_div(logits.log_softmax(-1), base.log_softmax(-1), reduction="sum", log_target=True)

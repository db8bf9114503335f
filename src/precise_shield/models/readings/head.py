"""The output head, run where it is needed: exact, at a fraction of the memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from precise_shield.core.errors import UnsupportedModelError
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.inputs.encoding import IGNORED


def predicting(labels: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """The positions whose next token has a label."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED) != IGNORED


def hidden_states(
    bound: BoundModel, inputs: Mapping[str, Tensor]
) -> Float[Tensor, "batch pos width"]:
    """What the backbone hands to the output head, the final norm included."""
    hidden: Tensor = bound.backbone(**inputs, use_cache=False).last_hidden_state
    return hidden


def answer_logits(
    bound: BoundModel, inputs: Mapping[str, Tensor], labels: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "tokens vocab"], Int[Tensor, " tokens"]]:
    """Logits at the positions that predict a labelled token, and those tokens, row by row.

    Exact: equal to the head on all positions with the others thrown away.
    """
    mask = predicting(labels)
    hidden = hidden_states(bound, inputs)
    logits = head(bound, hidden[mask.to(hidden.device)])
    return logits, labels[:, 1:][mask[:, :-1]].to(logits.device)


def head(bound: BoundModel, hidden: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens v"]:
    """Logits of hidden states, in float32, with the family's final soft cap if it has one."""
    unembed: nn.Module = bound.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    logits: Tensor = unembed(hidden)
    cap = getattr(bound.model.config.get_text_config(), "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits.float()


@torch.no_grad()
def check_head(bound: BoundModel, inputs: Mapping[str, Tensor]) -> None:
    """Compare `head` with the model's own logits at the last position.

    Raises:
        UnsupportedModelError: they differ, so the family does something else to its logits.
    """
    own = bound.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
    ours = head(bound, hidden_states(bound, inputs)[:, -1])
    gap = float((own - ours).abs().max())
    step = torch.finfo(bound.model.dtype).eps
    if not gap <= 64 * step * max(1.0, float(own.abs().max())):
        raise UnsupportedModelError(
            f"the output head of {bound.model.config.model_type!r} gives logits that differ by"
            f" {gap:.3g} from its embeddings times the hidden state. Add what it does to"
            f" {__name__}.head."
        )

"""From a vector in the residual stream to the tokens it argues for."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.models.architecture.bind import BoundModel, resolve
from precise_shield.models.architecture.layouts import layouts_for
from precise_shield.models.holding.held import without_gradients
from precise_shield.models.loading.model import LoadedModel


@without_gradients()
def direct_logits(
    bound: BoundModel, vectors: Float[Tensor, "k hidden"]
) -> Float[Tensor, "k vocab"]:
    """What each vector adds to every token's logit, were it alone in the stream.

    The model's own final norm is applied to the vector and its value at zero is taken off, so the
    norm's weights (and a layer norm's centring) are folded in and its bias is not; then the
    unembedding. The scale is that of a stream which holds this vector only: ranks mean something,
    sizes do not. A norm that a block puts on its own output (Gemma 2 and 3, OLMo 2) is not folded.

    Shapes: float32 on CPU.

    Source: direct logit attribution; Geva et al. (2022), "Transformer Feed-Forward Layers Build
        Predictions by Promoting Concepts in the Vocabulary Space", section 2.
    """
    layout = layouts_for(bound.model.config.model_type)["text"]
    norm = resolve(bound.model, layout.final_norm, "text")
    model: Any = bound.model
    head = model.get_output_embeddings().weight
    given = vectors.to(head.device, head.dtype)
    scaled = given / given.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    folded = norm(scaled) - norm(torch.zeros_like(scaled))
    logits: Tensor = folded.float() @ head.float().T
    return logits.cpu()


def token_text(loaded: LoadedModel, token: int) -> str:
    """A token as a reader sees it: its own text, or its number where it has none."""
    if token >= len(loaded.tokenizer):
        return f"[{token}]"
    return str(loaded.tokenizer.decode([token])) or f"[{token}]"

"""Where in a text an edit acts: everywhere, while reading the prompt, or while answering."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from precise_shield.core.errors import LayoutMismatchError
from precise_shield.core.sites import Site
from precise_shield.models.inputs.encoding import Encoded
from precise_shield.models.inputs.positions import announced, last_of_prompt

Scope = Literal["all", "prompt", "context", "first_decision", "response"]
"""`all`: every token. `prompt`: the prompt's tokens, template and picture included, the last of
which predicts the answer's first token. `context` and `first_decision`: the prompt without that
last token, and it alone. `response`: the answer's own tokens. `prompt` and `response` together
are `all`, `context` and `first_decision` together are `prompt`."""

SCOPES: tuple[Scope, ...] = get_args(Scope)

Where = Bool[Tensor, "batch pos"] | bool
"""A mask over the pass, or one word for all of it."""


def where(scope: Scope, site: Site, acts: Tensor) -> Where:
    """Positions of the running pass that a scope covers.

    In a cached generation the first pass is the prompt, and each later one, which sees one new
    token a row, is answer. The vision tower reads the prompt's pictures.

    Raises:
        LayoutMismatchError: nobody announced what is running
            (`models.inputs.positions.running`), or `acts` does not fit what was announced.
    """
    if scope == "all":
        return True
    if site.tower == "vision":
        return scope in {"prompt", "context"}
    batch = announced()
    if batch is None:
        raise LayoutMismatchError(
            f"an edit at {scope!r} positions cannot tell prompt from answer in this pass."
            " Run it inside precise_shield.models.inputs.positions.running(batch)."
        )
    rows, width = batch.prompt_mask.shape
    if width > 1 and acts.dim() == 3 and acts.shape[1] == 1 and acts.shape[0] <= rows:
        return scope == "response"
    if acts.dim() != 3 or acts.shape[:2] != batch.prompt_mask.shape or width == 1:
        raise LayoutMismatchError(
            f"{site} sees activations of shape {list(acts.shape)}, but the batch that was"
            f" announced has {rows} rows of {width} tokens; prompt and answer cannot be told apart."
        )
    return _mask(scope, batch).to(acts.device)


def _mask(scope: Scope, batch: Encoded) -> Bool[Tensor, "batch pos"]:
    if scope == "response":
        return batch.response_mask
    if scope == "prompt":
        return batch.prompt_mask
    last = last_of_prompt(batch)
    return last if scope == "first_decision" else batch.prompt_mask & ~last


def blend(edited: Tensor, acts: Tensor, covered: Where) -> Tensor:
    """`edited` where the scope covers, `acts` elsewhere."""
    if isinstance(covered, bool):
        return edited if covered else acts
    return torch.where(covered[..., None], edited, acts)

"""The residual stream of a language model at chosen positions of a prompt, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precise_shield.core.errors import LayoutMismatchError, NumericError
from precise_shield.core.records import Example
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.holding.held import is_sharded, without_gradients
from precise_shield.models.inputs.encoding import Encoded, encode, plan
from precise_shield.models.inputs.words import last_own_token
from precise_shield.models.loading.model import LoadedModel
from precise_shield.models.passes.batching import backing_off

StreamPosition = Literal["first_decision", "last_prompt"]
"""`first_decision`: the position that predicts the answer's first token, where refusing is
decided. `last_prompt`: the last token of the user's own words."""


def residual_stream(
    loaded: LoadedModel,
    bound: BoundModel,
    examples: Sequence[Example],
    positions: Sequence[StreamPosition] = ("first_decision",),
    batch_size: int = 32,
    on_batch: Callable[[int], None] | None = None,
) -> dict[StreamPosition, Float[Tensor, "examples layers hidden"]]:
    """What each block reads at a position, and last what the output head reads.

    Shapes: per position `[examples, blocks + 1, hidden]`, float32 on CPU, in the order of
        `examples`. The final norm is in the last layer alone.

    Raises:
        NumericError: a state is NaN or infinite.
        LayoutMismatchError: the model does not hand out its hidden states.
    """
    kept: dict[StreamPosition, list[Tensor]] = {
        at: [torch.empty(0)] * len(examples) for at in positions
    }

    @without_gradients()
    def work(part: list[int]) -> None:
        rows = [examples[i] for i in part]
        batch = encode(loaded, rows)
        states = hidden_states(bound, batch.inputs)
        for at in positions:
            place = _place(loaded, rows, batch, at)
            here = torch.arange(len(part), device=place.device)
            taken = torch.stack([layer[here, place].float() for layer in states], 1).cpu()
            for i, state in zip(part, taken, strict=True):
                kept[at][i] = state
        if on_batch is not None:
            on_batch(len(part))

    backing_off(plan(loaded, examples, None, batch_size), work, cut=not is_sharded(loaded.model))
    found = {at: torch.stack(states) for at, states in kept.items()}
    for at, states in found.items():
        if not torch.isfinite(states).all():
            raise NumericError(
                f"the residual stream at {at} is NaN or infinite; load the model in bfloat16 or"
                " float32."
            )
    return found


def hidden_states(bound: BoundModel, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The stream before each block and after the final norm, each `[batch, pos, hidden]`."""
    out: Any = bound.backbone(**inputs, use_cache=False, output_hidden_states=True)
    if out.hidden_states is None or len(out.hidden_states) < 2:
        raise LayoutMismatchError(
            f"{bound.model.config.model_type!r} does not hand out its hidden states; set"
            " explain.headroom.on to false."
        )
    states: tuple[Tensor, ...] = out.hidden_states
    return states


def _place(
    loaded: LoadedModel, rows: Sequence[Example], batch: Encoded, at: StreamPosition
) -> Int[Tensor, " batch"]:
    return last_own_token(loaded, rows, batch) if at == "last_prompt" else batch.first_decision


def stream_bytes(bound: BoundModel, examples: int, positions: int = 1) -> int:
    """How large the states of so many examples are in memory, before anything runs."""
    config = bound.model.config.get_text_config()
    layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
    return 4 * examples * positions * (layers + 1) * hidden

"""How much of a conversation still fits the model's context."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.errors import DataError
from precise_shield.core.records import Example
from precise_shield.models.inputs.context import context
from precise_shield.models.inputs.encoding import Turn, encode
from precise_shield.models.loading.model import LoadedModel


def too_many(loaded: LoadedModel, example: Example, history: Sequence[Turn], room: int) -> int:
    """How many of the oldest turns have to go, so that the answer still fits the context.

    Args:
        loaded: the model.
        example: what is asked next.
        history: the turns before it, oldest first.
        room: tokens to keep for the answer.

    Raises:
        DataError: the request does not fit even alone, or it cannot be encoded.
        LoadingError: the chat template fails, or takes no earlier turns.
    """
    most = context(loaded)
    if most is None:
        return 0
    for gone in range(len(history) + 1):
        batch = encode(loaded, [example], history=history[gone:], room=None)
        needed = int(batch.prompt_mask.sum()) + room
        if needed <= most:
            return gone
    raise DataError(
        f"the request takes {needed - room} tokens and its answer up to {room}, more than the"
        f" {most} that {loaded.spec.path} was made for. Shorten it, or ask for a shorter answer."
    )

"""Which positions of the running pass are prompt and which are answer, for edits that need it.

A projection sees numbers without names. Whoever runs the model says here what they are: a whole
pass over an encoded batch, or a generation that starts with one and goes on token by token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jaxtyping import Bool
from torch import Tensor

from precise_shield.models.inputs.encoding import Encoded

_RUNNING: ContextVar[Encoded | None] = ContextVar("running", default=None)


@contextmanager
def running(batch: Encoded) -> Iterator[None]:
    """Say that passes inside the block read `batch`, or go on generating after it.

    Blocks nest; the innermost counts.
    """
    token = _RUNNING.set(batch)
    try:
        yield
    finally:
        _RUNNING.reset(token)


def announced() -> Encoded | None:
    """The batch that is running; None where nobody said."""
    return _RUNNING.get()


def last_of_prompt(batch: Encoded) -> Bool[Tensor, "batch pos"]:
    """The position of each row that predicts its answer's first token."""
    return batch.prompt_mask & ~(
        batch.prompt_mask.flip(1).cumsum(1).flip(1) > 1  # more of the prompt is to come
    )

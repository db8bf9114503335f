"""How many tokens a model was made for, and a sentence where a row takes more."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.errors import DataError
from precise_shield.core.records import Example
from precise_shield.models.loading.model import LoadedModel


def context(loaded: LoadedModel) -> int | None:
    """Most tokens, prompt and answer together, that the model was made for; None if unsaid."""
    most = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 0 else None


def require_room(
    loaded: LoadedModel, examples: Sequence[Example], tokens: Sequence[int], answer: int = 0
) -> None:
    """Refuse rows that reach beyond the positions that the model has learnt.

    Past them a model with learnt positions fails, and any other writes what it was never
    trained to write: figures of it would be figures of nothing.

    Args:
        loaded: the model.
        examples: what is read.
        tokens: of each, as encoded.
        answer: tokens that are to be generated after it.

    Raises:
        DataError: one takes more.
    """
    most = context(loaded)
    if most is None or not tokens:
        return
    size, example = max(zip(tokens, examples, strict=True), key=lambda pair: pair[0])
    if size + answer <= most:
        return
    asked = f" and an answer up to {answer}" if answer else ""
    way = ", or ask for shorter answers" if answer else " or its target"
    raise DataError(
        f"example {example.id!r} takes {size} tokens{asked}, more than the {most} that"
        f" {loaded.spec.path} was made for. Shorten it{way}, or leave it out."
    )

"""Let a model answer: batched, greedy unless told otherwise, the same in any batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from precise_shield.core.errors import ConfigError
from precise_shield.core.records import Example, Response
from precise_shield.models.answers.decoding import Choice, decode, decode_by_library
from precise_shield.models.holding.held import is_sharded, without_gradients
from precise_shield.models.inputs.encoding import Encoded, Turn, encode, plan
from precise_shield.models.inputs.positions import running
from precise_shield.models.loading.model import LoadedModel
from precise_shield.models.passes.batching import backing_off

_OWN_POSITIONS = {"mm_token_type_ids", "cross_attention_mask"}
"""Inputs of the families whose decoding steps need more than token, mask and cache."""

OnBatch = Callable[[list[Response]], None]


def generate(
    loaded: LoadedModel,
    examples: Sequence[Example],
    *,
    condition: str,
    max_new_tokens: int,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    system: str | None = None,
    prefix: str | None = None,
    history: Sequence[Turn] = (),
    on_batch: OnBatch | None = None,
) -> list[Response]:
    """Answer every example, in the order given.

    Temperature 0 takes the likeliest token. Above, tokens are drawn with a random stream
    that belongs to `(seed, example id)`, so that an answer does not depend on which other
    examples share its batch. A batch that does not fit memory is halved.

    Args:
        loaded: the model; hooks that are on it stay on.
        examples: what to answer; none gives none.
        condition: the state of the model, written into each response.
        max_new_tokens: where an answer is cut off.
        batch_size: most examples a forward pass.
        temperature: 0, or what logits are divided by.
        seed: of the random streams.
        system: words of a system turn.
        prefix: words put before the user's own.
        history: turns that come before each of the examples, oldest first.
        on_batch: called with each batch's responses as they come.

    Raises:
        ConfigError: a number is out of range.
        DataError: a picture is missing or broken, or the model sees none, or not so many; or a
            prompt and its answer take more tokens than the model was made for.
        LoadingError: the chat template fails, or takes no earlier turns.
    """
    if max_new_tokens < 1 or batch_size < 1 or temperature < 0:
        raise ConfigError(
            f"max_new_tokens={max_new_tokens} and batch_size={batch_size} must be at least 1 and"
            f" temperature={temperature} at least 0."
        )
    done: dict[int, Response] = {}

    def answer(part: list[int]) -> None:
        asked = [examples[i] for i in part]
        written: dict[str, Any] = {"system": system, "prefix": prefix, "history": history}
        batch = encode(loaded, asked, None, side="left", room=max_new_tokens, **written)
        rows = _answer(loaded, batch, asked, max_new_tokens, temperature, seed)
        said = [_response(loaded, e, condition, row) for e, row in zip(asked, rows, strict=True)]
        done.update(zip(part, said, strict=True))
        if on_batch is not None:
            on_batch(said)

    backing_off(plan(loaded, examples, None, batch_size), answer, cut=not is_sharded(loaded.model))
    return [done[i] for i in range(len(examples))]


@without_gradients()
def _answer(
    loaded: LoadedModel,
    batch: Encoded,
    examples: list[Example],
    limit: int,
    temperature: float,
    seed: int,
) -> list[list[int]]:
    choice = Choice([_stream(seed, example.id) for example in examples], temperature)
    with running(batch):
        if _OWN_POSITIONS & batch.inputs.keys():
            return decode_by_library(loaded, batch, choice, limit)
        return decode(loaded, batch, choice, limit)


def _stream(seed: int, example: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}|{example}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def _response(loaded: LoadedModel, example: Example, condition: str, row: list[int]) -> Response:
    finished = bool(row) and row[-1] in loaded.stop_ids
    said = row[:-1] if finished else row
    if example.prefill is not None:  # decoded together, so that spaces come out as written
        opening = loaded.tokenizer(example.prefill, add_special_tokens=False)["input_ids"]
        said = [*opening, *said]
    text = str(loaded.tokenizer.decode(said, skip_special_tokens=True))
    return Response(
        example=example.id,
        condition=condition,
        text=text.strip(),
        tokens=len(row),
        finished=finished,
    )

"""Where in a prompt the user's own words end and the template's begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from precise_shield.core.errors import DataError
from precise_shield.core.records import Example
from precise_shield.models.inputs.chat import conversation, prompt_text
from precise_shield.models.inputs.encoding import Encoded
from precise_shield.models.loading.model import LoadedModel

_MARK = "Zq7 xW9"
"""Stands for a user's words, to see what the template writes after them."""


def last_own_token(
    loaded: LoadedModel, examples: Sequence[Example], batch: Encoded
) -> Int[Tensor, " batch"]:
    """The position of the last token of each user's own words.

    What the chat template writes after them (end of turn, opening of the answer) comes later; a
    token that holds both the end of the words and some of the template counts as the words'. It is
    counted from the end of the prompt, so that the tokens a picture grows to do not matter.

    Args:
        loaded: the model the batch was encoded for.
        examples: the batch's examples, in its order.
        batch: `encode(loaded, examples, ...)`, without a prefix or system turn.

    Raises:
        DataError: the template writes the picture after the words, or rewrites the words.
    """
    after = [_tokens_after(loaded, example) for example in examples]
    for row, (example, ids) in enumerate(zip(examples, after, strict=True)):
        end = int(batch.first_decision[row]) + 1
        there = batch.inputs["input_ids"][row, end - len(ids) : end].tolist()
        if there != ids:
            raise DataError(
                f"example {example.id!r}: what the chat template writes after the user's words"
                " cannot be told apart from them; choose position first_decision instead."
            )
    counts = torch.tensor([len(ids) for ids in after], device=batch.first_decision.device)
    return batch.first_decision - counts


def _tokens_after(loaded: LoadedModel, example: Example) -> list[int]:
    """Ids of the tokens that lie wholly after the user's words."""
    text = prompt_text(loaded, conversation(loaded, example))
    marked = conversation(loaded, replace(example, prompt=_MARK))
    _, found, closing = prompt_text(loaded, marked).rpartition(_MARK)
    if not found or not text.endswith(closing):
        raise DataError(
            f"example {example.id!r}: the chat template does not write the user's words as they"
            " are; choose position first_decision instead."
        )
    end = len(text) - len(closing)
    if loaded.tokenizer.is_fast:
        out = loaded.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        starts = [start for start, _ in out["offset_mapping"]]
        first = next((i for i, start in enumerate(starts) if start >= end), len(starts))
        ids: list[int] = out["input_ids"][first:]
        return ids
    whole: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    head = loaded.tokenizer(text[:end], add_special_tokens=False)["input_ids"]
    same = 0
    while same < min(len(head), len(whole)) and head[same] == whole[same]:
        same += 1
    return whole[max(same, 1) :]

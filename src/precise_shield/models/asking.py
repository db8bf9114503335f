"""Let a local model answer conversations that are no examples: a judge's questions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jinja2 import TemplateError

from precise_shield.core.errors import LoadingError
from precise_shield.models.batching import backing_off
from precise_shield.models.chat import Message
from precise_shield.models.decoding import Choice, decode, decode_by_library
from precise_shield.models.encoding import IGNORED, Encoded, batches
from precise_shield.models.held import is_sharded, without_gradients
from precise_shield.models.loading import LoadedModel


def rendered(loaded: LoadedModel, turns: Sequence[Message], *, opens_answer: bool) -> str:
    """A conversation as the model's chat template writes it.

    Args:
        loaded: the model.
        turns: roles and words; an assistant's turn may be the last.
        opens_answer: whether the template is told to open an answer; moderation models whose
            template always does are not told.

    Raises:
        LoadingError: the template does not take such a conversation.
    """
    said = [
        {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}
        if loaded.has_images
        else turn
        for turn in turns
    ]
    try:
        text = loaded.tokenizer.apply_chat_template(
            said,
            chat_template=loaded.template,
            add_generation_prompt=opens_answer,
            tokenize=False,
            enable_thinking=False,
        )
    except (TemplateError, TypeError) as error:
        raise LoadingError(
            f"{loaded.spec.path}: the chat template fails on a judge's question ({error}). Is it"
            " the model that the format was made for?"
        ) from None
    return str(text)


@without_gradients()
def complete(
    loaded: LoadedModel, texts: Sequence[str], max_new_tokens: int, batch_size: int = 16
) -> list[str]:
    """Continue each text greedily; special tokens in a text are read as such.

    Returns:
        What was said, in order, without special tokens.
    """
    ids = [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    said: dict[int, str] = {}

    def work(part: list[int]) -> None:
        batch = _padded(loaded, [ids[i] for i in part])
        choice = Choice([torch.Generator()] * len(part), 0.0)
        method = decode_by_library if loaded.has_images else decode
        for i, row in zip(part, method(loaded, batch, choice, max_new_tokens), strict=True):
            said[i] = str(loaded.tokenizer.decode(row, skip_special_tokens=True)).strip()

    plan = batches(ids, [len(row) for row in ids], batch_size)
    backing_off((part for part, _ in plan), work, cut=not is_sharded(loaded.model))
    return [said[i] for i in range(len(texts))]


def _padded(loaded: LoadedModel, rows: list[list[int]]) -> Encoded:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), loaded.pad_id)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = True
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if not loaded.has_images:
        inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    device = loaded.device
    return Encoded(
        inputs={name: value.to(device) for name, value in inputs.items()},
        prompt_mask=mask.to(device),
        response_mask=torch.zeros_like(mask).to(device),
        image_mask=torch.zeros_like(mask).to(device),
        first_decision=torch.full((len(rows),), width - 1).to(device),
        labels=torch.full_like(ids, IGNORED).to(device),
    )

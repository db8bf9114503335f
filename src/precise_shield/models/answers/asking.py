"""Let a local model answer conversations that are no examples: a judge's questions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jinja2 import TemplateError

from precise_shield.core.errors import LoadingError
from precise_shield.core.records import Example
from precise_shield.models.answers.decoding import Choice, decode, decode_by_library
from precise_shield.models.holding.held import is_sharded, without_gradients
from precise_shield.models.inputs.chat import Message
from precise_shield.models.inputs.encoding import encode_texts, plan
from precise_shield.models.loading.model import LoadedModel
from precise_shield.models.passes.batching import backing_off


def rendered(
    loaded: LoadedModel,
    turns: Sequence[Message],
    *,
    opens_answer: bool,
    pictured: bool = False,
) -> str:
    """A conversation as the model's chat template writes it.

    Args:
        loaded: the model.
        turns: roles and words; an assistant's turn may be the last.
        opens_answer: whether the template is told to open an answer; moderation models whose
            template always does are not told.
        pictured: whether the first user's turn begins with a picture.

    Raises:
        LoadingError: the template does not take such a conversation or leaves words of it out, or
            the model sees no pictures.
    """
    if pictured and not loaded.has_images:
        raise LoadingError(
            f"{loaded.spec.path} sees no pictures, and its questions have some; set the judge's"
            " pictures to false, or take another model."
        )
    parts = _takes_parts(loaded, [turn["role"] for turn in turns], opens_answer)
    said = _in_parts(turns) if parts or pictured else list(turns)
    if pictured:
        next(turn for turn in said if turn["role"] == "user")["content"].insert(
            0, {"type": "image"}
        )
    return _templated(loaded, said, opens_answer)


def _in_parts(turns: Sequence[Message]) -> list[Message]:
    return [
        {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]}
        for turn in turns
    ]


def _takes_parts(loaded: LoadedModel, roles: Sequence[str], opens_answer: bool) -> bool:
    """Whether the template shows words that are parts of a turn, or plain ones, told by trying.

    Some templates leave out, without an error, what comes in the other way: that of
    Llama-Guard-3-1B, a model of words alone, knows parts only.
    """
    words = [f"[words of turn {number}]" for number in range(len(roles))]
    turns: list[Message] = [
        {"role": role, "content": text} for role, text in zip(roles, words, strict=True)
    ]
    failed: LoadingError | None = None
    for parts in (loaded.has_images, not loaded.has_images):
        try:
            text = _templated(loaded, _in_parts(turns) if parts else turns, opens_answer)
        except LoadingError as error:
            failed = failed or error
            continue
        if all(word in text for word in words):
            return parts
    raise failed or LoadingError(
        f"{loaded.spec.path}: the chat template leaves out words of a judge's question"
        f" ({', '.join(roles)}). Is it the model that the format was made for?"
    )


def _templated(loaded: LoadedModel, said: list[Message], opens_answer: bool) -> str:
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
    loaded: LoadedModel,
    texts: Sequence[str],
    max_new_tokens: int,
    batch_size: int = 16,
    pictures: Sequence[str | None] | None = None,
) -> list[str]:
    """Continue each text greedily; special tokens in a text are read as such.

    Args:
        loaded: the model.
        texts: prompts as `rendered` writes them.
        max_new_tokens: where an answer is cut off.
        batch_size: most texts a forward pass; halved when memory runs out.
        pictures: the path of each text's picture, or None; all None if not given.

    Returns:
        What was said, in order, without special tokens.

    Raises:
        DataError: a picture is missing or broken.
    """
    shown = [None] * len(texts) if pictures is None else list(pictures)
    rows = [
        Example(f"question {i}", "und", "text", "benign", text, "test", f"{i}", image=image)
        for i, (text, image) in enumerate(zip(texts, shown, strict=True))
    ]
    said: dict[int, str] = {}

    def work(part: list[int]) -> None:
        asked, words = [rows[i] for i in part], [texts[i] for i in part]
        batch = encode_texts(loaded, asked, words, side="left")
        choice = Choice([torch.Generator()] * len(part), 0.0)
        method = decode_by_library if loaded.has_images else decode
        for i, row in zip(part, method(loaded, batch, choice, max_new_tokens), strict=True):
            said[i] = str(loaded.tokenizer.decode(row, skip_special_tokens=True)).strip()

    rest = plan(loaded, rows, None, batch_size)
    backing_off(rest, work, cut=not is_sharded(loaded.model))
    return [said[i] for i in range(len(texts))]

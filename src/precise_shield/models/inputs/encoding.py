"""Examples to tensors, and which positions are prompt, answer and picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from precise_shield.core.errors import DataError
from precise_shield.core.records import Example
from precise_shield.models.inputs.chat import (
    Message,
    Turn,
    adds_special_tokens,
    conversation,
    picture,
    picture_at,
    prompt_text,
    response_tokens,
)
from precise_shield.models.inputs.context import require_room
from precise_shield.models.loading.files import first_line
from precise_shield.models.loading.model import LoadedModel

Side = Literal["right", "left"]
T = TypeVar("T")

IGNORED = -100
"""Label of a position that no loss looks at."""

_REJECTIONS = (ValueError, TypeError, IndexError, KeyError, RuntimeError, StopIteration)
"""What processors raise, by family and version, when words and pictures do not fit."""

_PER_TOKEN = {"token_type_ids": False, "mm_token_type_ids": False, "cross_attention_mask": True}
"""Inputs with one row a token, and whether an answer's tokens repeat the prompt's last row
(they go on seeing the picture) or get zeros (they are text)."""


@dataclass(frozen=True)
class Encoded:
    """A padded batch of prompts, with their answers if there are any.

    Shapes: all masks and `labels` are `[batch, pos]`; `first_decision` is `[batch]`.
    """

    inputs: dict[str, Tensor]
    """What the model's forward takes: token ids, attention mask, pictures."""

    prompt_mask: Bool[Tensor, "batch pos"]
    """Tokens of the prompt, the chat template's and the picture's own included."""

    response_mask: Bool[Tensor, "batch pos"]
    """Tokens of the answer, its end-of-turn token included."""

    image_mask: Bool[Tensor, "batch pos"]
    """Tokens that stand for a piece of a picture; a part of the prompt."""

    first_decision: Int[Tensor, " batch"]
    """The prompt's last position: the one that predicts the answer's first token."""

    labels: Int[Tensor, "batch pos"]
    """The token itself at the answer's positions, -100 elsewhere; not shifted."""

    @property
    def predict_mask(self) -> Bool[Tensor, "batch pos"]:
        """Positions whose output predicts a token of the answer: one to the left of it."""
        last = torch.zeros_like(self.response_mask[:, :1])
        return torch.cat([self.response_mask[:, 1:], last], dim=1)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _Prompts:
    """Unpadded prompts: a row of ids each, and what else the processor gave."""

    ids: list[list[int]]
    per_token: dict[str, list[Tensor]]
    shared: dict[str, Tensor]


def encode(
    loaded: LoadedModel,
    examples: Sequence[Example],
    responses: Sequence[str] | None = None,
    *,
    side: Side = "right",
    system: str | None = None,
    prefix: str | None = None,
    history: Sequence[Turn] = (),
    room: int | None = 0,
) -> Encoded:
    """Write examples as the model's own chat template does, with answers where given.

    An answer is appended after the prompt's tokens, which are the same with and without
    it. An example's `prefill` stands between them and belongs to the prompt. An example without a
    picture may go to an image-and-text model.

    Args:
        loaded: the model to write for.
        examples: at least one.
        responses: one answer an example; None ends at the prompt.
        side: where the padding goes.
        system: words of a system turn; merged into the user's where the template has none.
        prefix: words put before the user's own.
        history: turns that come before each of the examples, oldest first.
        room: tokens to keep for an answer that is still to come; None does not ask whether it fits.

    Raises:
        DataError: a picture is missing or broken, or the model sees none, or not so many; or a
            row takes more tokens than the model was made for.
        LoadingError: the chat template fails, or takes no earlier turns.
    """
    if not examples:
        raise DataError("there is nothing to encode: no examples were given.")
    turns = [conversation(loaded, example, system, prefix, history) for example in examples]
    texts = [
        prompt_text(loaded, each) + (example.prefill or "")
        for each, example in zip(turns, examples, strict=True)
    ]
    earlier = [picture_at(turn.image) for turn in history if turn.image is not None]
    prompts = _tokenize(loaded, examples, texts, earlier)
    if responses is None:
        answers: list[list[int]] = [[] for _ in examples]
    else:
        answers = response_tokens(loaded, turns, texts, responses)
    if room is not None:
        sizes = [len(ids) + len(said) for ids, said in zip(prompts.ids, answers, strict=True)]
        require_room(loaded, examples, sizes, room)
    return _collate(loaded, prompts, answers, side)


def encode_texts(
    loaded: LoadedModel, examples: Sequence[Example], texts: list[str], *, side: Side = "right"
) -> Encoded:
    """Encode prompts that are written out already; of an example only its picture is taken.

    Raises:
        DataError: a picture is missing or broken, or a text writes a picture's token without one.
    """
    return _collate(loaded, _tokenize(loaded, examples, texts, []), [[] for _ in texts], side)


def mixes(loaded: LoadedModel) -> bool:
    """Whether examples with and without pictures may share a batch.

    In Mllama they may not: its cross-attention, passed over where no row has a picture, adds
    to the rows that have none as well.
    """
    pixels: Any = None if loaded.processor is None else loaded.processor.image_processor
    return pixels is None or "aspect_ratio_mask" not in pixels.model_input_names


def _tokenize(
    loaded: LoadedModel, examples: Sequence[Example], texts: list[str], earlier: list[Image.Image]
) -> _Prompts:
    if loaded.processor is None:
        return _Prompts(loaded.tokenizer(texts, add_special_tokens=False)["input_ids"], {}, {})
    seeing = [bool(earlier) or example.image is not None for example in examples]
    with_image = [i for i, sees in enumerate(seeing) if sees]
    without = [i for i, sees in enumerate(seeing) if not sees]
    if with_image and without and not mixes(loaded):
        raise DataError(
            f"{loaded.model_type}: a batch holds {len(with_image)} examples with and"
            f" {len(without)} without a picture; this family lets the latter see the former's"
            " layers. Keep them in batches apart."
        )
    ids: list[list[int]] = [[] for _ in texts]
    per_token: dict[str, list[Tensor]] = {}
    shared: dict[str, Tensor] = {}
    for part in (with_image, without):
        if not part:
            continue
        out = _process(loaded, [examples[i] for i in part], [texts[i] for i in part], earlier)
        for row, i in enumerate(part):
            real = out["attention_mask"][row].bool()
            ids[i] = out["input_ids"][row][real].tolist()
            if part is without and loaded.image_token_id in ids[i]:
                raise _rejected(examples[i], "it has a picture's token but no picture")
            for name in _PER_TOKEN.keys() & out.keys():
                per_token.setdefault(name, [torch.zeros(0)] * len(texts))[i] = out[name][row][real]
        shared |= {
            name: value
            for name, value in out.items()
            if name not in {*_PER_TOKEN, "input_ids", "attention_mask"}
        }
    return _Prompts(ids, per_token, shared)


def _process(
    loaded: LoadedModel, examples: Sequence[Example], texts: list[str], earlier: list[Image.Image]
) -> dict[str, Tensor]:
    """Run the processor on examples that all have pictures, or all have none."""
    processor: Any = loaded.processor
    shown = [[*earlier, *([] if e.image is None else [picture(e)])] for e in examples]
    pictures = shown if shown[0] else None
    try:
        out = processor(
            text=texts,
            images=pictures,
            padding=True,
            padding_side="right",
            add_special_tokens=adds_special_tokens(loaded, texts),
            return_tensors="pt",
        )
    except _REJECTIONS as error:
        if len(examples) == 1:
            raise _rejected(examples[0], first_line(error), len(shown[0])) from None
        for example, text in zip(examples, texts, strict=True):
            _process(loaded, [example], [text], earlier)
        raise
    return {name: value for name, value in out.items() if isinstance(value, Tensor)}


def _rejected(example: Example, why: str, pictures: int = 0) -> DataError:
    if pictures > 1:
        return DataError(
            f"example {example.id!r}: the model's processor rejects a conversation of {pictures}"
            f" pictures ({why}). Not every family takes several; start a new conversation."
        )
    return DataError(
        f"example {example.id!r}: the model's processor rejects it ({why})."
        " Does its prompt write one of the model's own tokens?"
    )


def _collate(
    loaded: LoadedModel, prompts: _Prompts, answers: list[list[int]], side: Side
) -> Encoded:
    heads = [len(ids) for ids in prompts.ids]
    sizes = [head + len(answer) for head, answer in zip(heads, answers, strict=True)]
    shape = (len(heads), max(sizes))
    ids = torch.full(shape, loaded.pad_id)
    prompt_mask, response_mask = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
    starts = [0 if side == "right" else shape[1] - size for size in sizes]
    for row, (start, head, size) in enumerate(zip(starts, heads, sizes, strict=True)):
        ids[row, start : start + size] = torch.tensor(prompts.ids[row] + answers[row])
        prompt_mask[row, start : start + head] = True
        response_mask[row, start + head : start + size] = True
    mask = prompt_mask | response_mask
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if not loaded.has_images:  # absolute positions count from the first real token
        inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    for name, rows in prompts.per_token.items():
        inputs[name] = _per_token(rows, starts, sizes, shape, repeat=_PER_TOKEN[name])
    for name, value in prompts.shared.items():
        inputs[name] = value.to(loaded.model.dtype) if value.is_floating_point() else value
    image = ids == loaded.image_token_id if loaded.image_token_id is not None else mask & False
    device = loaded.device
    return Encoded(
        inputs={name: value.to(device) for name, value in inputs.items()},
        prompt_mask=prompt_mask.to(device),
        response_mask=response_mask.to(device),
        image_mask=(image & prompt_mask).to(device),
        first_decision=(torch.tensor(starts) + torch.tensor(heads) - 1).to(device),
        labels=ids.masked_fill(~response_mask, IGNORED).to(device),
    )


def _per_token(
    rows: list[Tensor], starts: list[int], sizes: list[int], shape: tuple[int, int], repeat: bool
) -> Tensor:
    like = next(row for row in rows if len(row))
    out = torch.zeros((*shape, *like.shape[1:]), dtype=like.dtype)
    for i, (row, start, size) in enumerate(zip(rows, starts, sizes, strict=True)):
        out[i, start : start + len(row)] = row
        if repeat and len(row):
            out[i, start + len(row) : start + size] = row[-1]
    return out


def lengths(
    loaded: LoadedModel, examples: Sequence[Example], responses: Sequence[str] | None = None
) -> list[int]:
    """Tokens of each example's words and answer, without template and picture: for sorting."""
    texts = [example.prompt for example in examples]
    counts = [len(ids) for ids in loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    if responses is None:
        return counts
    said = loaded.tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    return [count + len(ids) for count, ids in zip(counts, said, strict=True)]


def batches(
    items: Sequence[T], lengths: Sequence[int], batch_size: int
) -> Iterator[tuple[list[int], list[T]]]:
    """Cut items into batches of similar length, longest first: `(original indices, items)`.

    The longest come first so that a batch that does not fit memory fails at once.
    """
    order = sorted(range(len(items)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        yield part, [items[i] for i in part]


def plan(
    loaded: LoadedModel,
    examples: Sequence[Example],
    responses: Sequence[str] | None,
    batch_size: int,
) -> Iterator[list[int]]:
    """Batches of example indices of similar length, with and without pictures kept apart."""
    sizes = lengths(loaded, examples, responses) if examples else []
    for seeing in (True, False):
        kind = [i for i, example in enumerate(examples) if (example.image is not None) == seeing]
        for _, part in batches(kind, [sizes[i] for i in kind], batch_size):
            yield part


__all__ = [
    "IGNORED",
    "Encoded",
    "Message",
    "Side",
    "Turn",
    "batches",
    "encode",
    "encode_texts",
    "lengths",
    "plan",
]

"""A model entered at one of its blocks, with what its frozen part gave at an earlier time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from precise_shield.core.errors import ConfigError
from precise_shield.models.architecture.bind import BoundModel, resolve
from precise_shield.models.architecture.layouts import layouts_for
from precise_shield.models.passes.decoder import blocks
from precise_shield.models.passes.taps import arriving, entering

PIXELS = ("pixel_values", "pixel_attention_mask")
"""Inputs that only a vision tower reads."""

_DEEP, _SEEN, _CROSSED = "deepstack_visual_embeds", "visual_pos_masks", "cross_attention_states"
"""What language models take from a vision tower beside the embeddings: Qwen3-VL adds features
after its first blocks, Mllama attends to them in blocks of their own."""

_RANDOM = ("drop", "jitter", "noise")


@dataclass(frozen=True)
class Entrance:
    """What enters a block, and what the blocks from there on take from the vision tower.

    Shapes: `hidden` is `[batch, pos, hidden]`; each of `deep` is `[pieces, hidden]`, the pieces of
        all pictures of the batch row by row; `crossed` is `[batch, patches, hidden]`.
    """

    hidden: Float[Tensor, "batch pos hidden"]
    deep: Mapping[int, Float[Tensor, "pieces hidden"]]
    """By the block that they are added after; those below the entrance are left out."""
    crossed: Float[Tensor, "batch patches hidden"] | None


def sees(bound: BoundModel) -> bool:
    """Whether the family has a vision tower."""
    return "vision" in layouts_for(bound.model.config.model_type)


def pieces(bound: BoundModel, inputs: Mapping[str, Tensor]) -> Bool[Tensor, "batch pos"]:
    """The positions that stand for a piece of a picture; none in a model without eyes."""
    ids = inputs["input_ids"]
    if not sees(bound):
        return torch.zeros_like(ids, dtype=torch.bool)
    return ids == int(bound.model.config.image_token_id)


def first_block(bound: BoundModel, trained: Iterable[nn.Module]) -> int:
    """The lowest block of the language model that holds one of these modules.

    Raises:
        ConfigError: one of them is in no block, so nothing below the blocks is frozen.
    """
    homes = {
        module: number
        for number, block in reversed(list(enumerate(blocks(bound))))
        for module in block.modules()
    }
    lowest = []
    for module in trained:
        if module not in homes:
            raise ConfigError(
                f"a trained {type(module).__name__} lies outside the language model's blocks, so"
                " what enters them is not frozen and cannot be kept. Set align.cache.where: off."
            )
        lowest.append(homes[module])
    return min(lowest)


def require_fixed(bound: BoundModel) -> None:
    """Check that the frozen model gives the same every time.

    Raises:
        ConfigError: a part of it draws at random, or depends on the batch; it is named.
    """
    for name, module in bound.model.named_modules():
        if not module.training:
            continue
        rates = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, float | int) and any(word in key for word in _RANDOM) and value > 0
        }
        if isinstance(module, _DropoutNd) and module.p > 0:
            rates["p"] = module.p
        if rates or isinstance(module, _BatchNorm):
            key, value = next(iter(rates.items()), ("training", True))
            raise ConfigError(
                f"{name or 'the model'} ({type(module).__name__}) is in training mode with"
                f" {key} = {value}: what it gives differs from pass to pass, so keeping it would"
                " not be exact. Call model.eval(), or set align.cache.where: off."
            )


def arrival(
    bound: BoundModel, inputs: Mapping[str, Tensor], layer: int, *, through: bool
) -> tuple[Entrance, Tensor | None]:
    """Run the frozen part and see what enters block `layer`.

    Returns:
        What enters; and with `through` also the last hidden state, the final norm included,
        `[batch, pos, hidden]`. Without it the pass ends at the block.
    """
    text, block = _text(bound), blocks(bound)[layer]
    final: Tensor | None = None
    with torch.no_grad(), arriving([text, block], None if through else block) as seen:
        final = bound.backbone(**inputs, use_cache=False).last_hidden_state
    args, named = seen[block]
    taken = seen[text][1]
    deep = {i: one for i, one in enumerate(taken.get(_DEEP) or ()) if i >= layer}
    hidden: Tensor = args[0] if args else named["hidden_states"]
    return Entrance(hidden, deep, taken.get(_CROSSED)), final


@contextmanager
def entered(
    bound: BoundModel, layer: int, given: Entrance, seen: Bool[Tensor, "batch pos"]
) -> Iterator[None]:
    """Passes of the model start at block `layer`, with what `arrival` gave.

    Above block 0 all of `given.hidden` is taken. At block 0 it is what the pictures gave that is
    taken, at the positions `seen`; words are looked up afresh.
    """
    every = blocks(bound)

    def enter(own: Tensor) -> Tensor:
        return given.hidden if layer else torch.where(seen[..., None], given.hidden, own)

    named: dict[str, Any] = {}
    if given.crossed is not None:
        named[_CROSSED] = given.crossed
    if given.deep:
        skipped = torch.zeros_like(next(iter(given.deep.values())))
        named[_DEEP] = [given.deep.get(i, skipped) for i in range(max(given.deep) + 1)]
        named[_SEEN] = seen
    with entering(_text(bound), named, every[:layer], every[layer], enter):
        yield


def _text(bound: BoundModel) -> nn.Module:
    """The module that runs the blocks of the language model."""
    path = layouts_for(bound.model.config.model_type)["text"].layers
    return resolve(bound.model, path.rpartition(".")[0], "text")

"""Token by token: what is likeliest next, until every row has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from precise_shield.core.errors import NumericError
from precise_shield.models.inputs.encoding import Encoded
from precise_shield.models.loading.model import LoadedModel

_CONFIG: Any = GenerationConfig

_WORTH_DROPPING = 0.75
"""Finished rows are dropped once fewer than this share of the rows goes on: it copies the cache."""


class Choice:
    """Picks each row's next token: the likeliest, or a draw at a temperature.

    `argmax(logits / t + Gumbel noise)` is distributed as `softmax(logits / t)`; with one
    random stream a row the draw does not depend on the batch.

    Source: Gumbel (1954), "Statistical Theory of Extreme Values and Some Practical
        Applications", NBS Applied Mathematics Series 33.
    """

    def __init__(self, streams: list[torch.Generator], temperature: float) -> None:
        self.streams, self.temperature = streams, temperature

    def scores(
        self, logits: Float[Tensor, "rows vocab"], which: list[int]
    ) -> Float[Tensor, "rows vocab"]:
        """What to take the largest of; `which[r]` says whose stream row r draws from.

        Raises:
            NumericError: a logit is NaN, so that every answer would be made up.
        """
        if torch.isnan(logits).any():
            raise NumericError(
                "the model's output is NaN. Load it in bfloat16 or float32: float16 overflows in"
                " many models."
            )
        if self.temperature == 0:
            return logits
        noise = torch.empty(logits.shape, dtype=torch.float64)
        for row, owner in zip(noise, which, strict=True):
            row.exponential_(generator=self.streams[owner])
        return logits / self.temperature - noise.log().to(logits)


def decode(loaded: LoadedModel, batch: Encoded, choice: Choice, limit: int) -> list[list[int]]:
    """New tokens of each row, its stop token included; rows that have ended are dropped.

    `batch` is padded on the left. For models whose steps need nothing but the token, the
    mask, the position and the cache.
    """
    stops = torch.tensor(loaded.stop_ids, device=loaded.device)
    said: list[list[int]] = [[] for _ in range(len(batch))]
    alive = list(range(len(batch)))
    inputs = dict(batch.inputs)
    mask, positions = inputs["attention_mask"], inputs.get("position_ids")
    for step in range(limit):
        out = loaded.model(**inputs, use_cache=True, logits_to_keep=1)
        token = choice.scores(out.logits[:, -1], alive).argmax(-1)  # [rows]
        for row, new in zip(alive, token.tolist(), strict=True):
            if not said[row] or said[row][-1] not in loaded.stop_ids:
                said[row].append(new)
        going = [i for i, row in enumerate(alive) if said[row][-1] not in loaded.stop_ids]
        if not going or step + 1 == limit:
            break
        cache = out.past_key_values
        if len(going) < _WORTH_DROPPING * len(alive):
            keep = torch.tensor(going, device=loaded.device)
            cache.batch_select_indices(keep)
            alive, token, mask = [alive[i] for i in going], token[keep], mask[keep]
            positions = None if positions is None else positions[keep]
        token = token.masked_fill(torch.isin(token, stops), loaded.pad_id)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        inputs = {"input_ids": token[:, None], "attention_mask": mask, "past_key_values": cache}
        if positions is not None:
            positions = positions[:, -1:] + 1
            inputs["position_ids"] = positions
    return said


def decode_by_library(
    loaded: LoadedModel, batch: Encoded, choice: Choice, limit: int
) -> list[list[int]]:
    """The same through the model's own `generate`, which knows each family's ways."""
    config = _CONFIG(
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=list(loaded.stop_ids),
        pad_token_id=loaded.pad_id,
    )
    inputs = {name: value for name, value in batch.inputs.items() if name != "position_ids"}
    chosen = LogitsProcessorList([_ByChoice(choice)])
    with _plain(loaded.model):
        model: Any = loaded.model
        out = model.generate(**inputs, generation_config=config, logits_processor=chosen)
    rows = []
    for row in out[:, batch.labels.shape[1] :].tolist():
        stop = (i + 1 for i, token in enumerate(row) if token in loaded.stop_ids)
        rows.append(row[: next(stop, len(row))])
    return rows


class _ByChoice(LogitsProcessor):
    def __init__(self, choice: Choice) -> None:
        self.choice = choice

    def __call__(
        self, input_ids: Int[Tensor, "rows pos"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        return self.choice.scores(scores, list(range(len(scores))))


@contextmanager
def _plain(model: PreTrainedModel) -> Iterator[None]:
    """Put the model's own generation defaults aside: a repetition penalty is not greedy."""
    kept = model.generation_config
    model.generation_config = _CONFIG()
    try:
        yield
    finally:
        model.generation_config = kept

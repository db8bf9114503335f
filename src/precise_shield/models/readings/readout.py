"""The cheap measure of refusal: how likely the answer starts as a refusal, in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from precise_shield.core.errors import ConfigError
from precise_shield.core.records import Example
from precise_shield.models.holding.held import without_gradients
from precise_shield.models.inputs.encoding import Encoded, encode, plan
from precise_shield.models.inputs.positions import running
from precise_shield.models.loading.model import LoadedModel

_Mask = Bool[Tensor, "batch vocab"]


class FirstTokenReadout:
    """Prompts that are written once and read out under many states of the model.

    A call gives `log p(R) - log(1 - p(R))` of each answer's first token, R being the tokens
    with which refusals of its language start: nats, float64 on CPU, `[examples]`, in the order of
    `examples`. Tokens that are `set_aside` count on neither side, e.g. those of wordings that
    the neurons were found with. The encoded prompts stay on the model's device between calls.

    Raises:
        ConfigError: a language of the examples has no refusal tokens, or all are set aside.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        examples: Sequence[Example],
        refusal_tokens: Mapping[str, Sequence[int]],
        batch_size: int = 32,
        set_aside: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        aside = {lang: set(tokens) for lang, tokens in (set_aside or {}).items()}
        for language in sorted({example.language for example in examples}):
            if not set(refusal_tokens.get(language, ())) - aside.get(language, set()):
                raise ConfigError(
                    f"no refusal tokens for language {language!r}; known: {sorted(refusal_tokens)}."
                )
        self.loaded, self.size = loaded, len(examples)
        self._parts: list[tuple[list[int], Encoded, _Mask, _Mask]] = []
        model: Any = loaded.model
        vocab = model.get_output_embeddings().weight.shape[0]
        for part in plan(loaded, examples, None, batch_size):
            asked = [examples[i] for i in part]
            shape = (len(part), vocab)
            hits, out = (torch.zeros(shape, dtype=torch.bool, device=loaded.device) for _ in "ab")
            for row, example in enumerate(asked):
                out[row, list(aside.get(example.language, ()))] = True
                hits[row, torch.tensor(refusal_tokens[example.language])] = True
            batch = encode(loaded, asked, None, side="left")
            self._parts.append((part, batch, hits & ~out, ~hits & ~out))

    @without_gradients()
    def __call__(self) -> Float[Tensor, " examples"]:
        """Read the model out as it is, hooks included."""
        odds = torch.full((self.size,), nan, dtype=torch.float64)
        for part, batch, hits, others in self._parts:
            with running(batch):
                out = self.loaded.model(**batch.inputs, logits_to_keep=1, use_cache=False)
            logits = out.logits[:, -1].double()  # [batch, vocab]
            inside = logits.masked_fill(~hits, -torch.inf).logsumexp(1)
            outside = logits.masked_fill(~others, -torch.inf).logsumexp(1)
            odds[part] = (inside - outside).cpu()
        return odds

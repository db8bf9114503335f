"""How likely a model finds given answers, and how far two states of it are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import nan

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from precise_shield.core.records import Example
from precise_shield.models.holding.held import is_sharded, without_gradients
from precise_shield.models.inputs.chat import conversation, prompt_text, response_tokens
from precise_shield.models.inputs.encoding import Encoded, encode, plan
from precise_shield.models.inputs.positions import running
from precise_shield.models.loading.model import LoadedModel
from precise_shield.models.passes.batching import backing_off
from precise_shield.models.readings.readout import FirstTokenReadout

_ANYONE = Example("any", "en", "text", "benign", "Hello", "probe", "any")

State = Callable[[], AbstractContextManager[object]]
"""Makes a block inside which the model is in another state, e.g. with neurons suppressed."""


@dataclass(frozen=True)
class AnswerScore:
    """What a model makes of one given answer."""

    logprob: float
    """Sum of the log-probabilities of its tokens, in nats, the end of turn included."""

    tokens: int

    @property
    def mean(self) -> float:
        """Log-probability a token, in nats."""
        return self.logprob / self.tokens if self.tokens else nan


def first_token_ids(loaded: LoadedModel, texts: Sequence[str]) -> list[int]:
    """Tokens with which these texts start when the model says them: distinct, sorted.

    They are read off a rendered conversation, since many tokenizers write the same word
    otherwise at the start of a line, after a space or after a control token.
    """
    if not texts:
        return []
    turns = [conversation(loaded, _ANYONE)] * len(texts)
    prompts = [prompt_text(loaded, each) for each in turns]
    rows = response_tokens(loaded, turns, prompts, texts)
    return sorted({row[0] for row in rows if row[0] != loaded.end_id})


def first_token_log_odds(
    loaded: LoadedModel,
    examples: Sequence[Example],
    refusal_tokens: Mapping[str, Sequence[int]],
    batch_size: int = 32,
) -> Float[Tensor, " examples"]:
    """`log p(R) - log(1 - p(R))` of the answer's first token, R the language's refusal tokens.

    One forward pass an example and no generation. The output head runs at the deciding
    position alone, as the model itself runs it, logit caps and scales included.

    Args:
        loaded: the model; hooks that are on it stay on.
        examples: prompts; their targets do not matter.
        refusal_tokens: per language, the ids of `first_token_ids`.
        batch_size: most examples a forward pass.

    Returns:
        Nats, float64 on CPU, in the order of `examples`.

    Raises:
        ConfigError: a language of the examples has no refusal tokens.
    """
    return FirstTokenReadout(loaded, examples, refusal_tokens, batch_size)()


@without_gradients()
def answer_logprobs(
    loaded: LoadedModel,
    examples: Sequence[Example],
    responses: Sequence[str],
    batch_size: int = 32,
) -> list[AnswerScore]:
    """Log-probability of each given answer, in the order of `examples`."""
    scores: dict[int, AnswerScore] = {}

    def work(part: list[int]) -> None:
        batch = _answered(loaded, examples, responses, part)
        logits, here, labels = _at_answers(loaded, batch)
        for i, row, keep, label in zip(part, logits, here, labels, strict=True):
            picked = row[keep].double().log_softmax(-1).gather(-1, label[keep].unsqueeze(-1))
            scores[i] = AnswerScore(float(picked.sum()), int(keep.sum()))

    backing_off(
        plan(loaded, examples, responses, batch_size), work, cut=not is_sharded(loaded.model)
    )
    return [scores[i] for i in range(len(examples))]


@dataclass(frozen=True)
class Effects:
    """What several states of a model make of the same given answers.

    Shapes: `[states, examples]`, `tokens` `[examples]`; float64 on CPU.
    """

    logprob: Float[Tensor, "states examples"]
    """Sum over the answer's tokens, in nats."""

    likeliest: Float[Tensor, "states examples"]
    """Share of the answer's tokens that are the likeliest at their place."""

    kl: Float[Tensor, "states examples"]
    """Mean over the tokens of `KL(first state ‖ this state)`, in nats."""

    tokens: Float[Tensor, " examples"]

    @property
    def mean(self) -> Float[Tensor, "states examples"]:
        """Log-probability a token, in nats."""
        return self.logprob / self.tokens

    @property
    def perplexity(self) -> Float[Tensor, " states"]:
        """Over all tokens of all answers."""
        return (-self.logprob.sum(1) / self.tokens.sum()).exp()


@without_gradients()
def answers_under(
    loaded: LoadedModel,
    examples: Sequence[Example],
    responses: Sequence[str],
    states: Sequence[State],
    batch_size: int = 16,
    skip: int = 0,
) -> Effects:
    """Read given answers in several states of the model, each batch encoded once.

    Logits live for one batch and two states at a time, and only at the positions that
    predict the answer.

    Args:
        loaded: the model; hooks that are on it stay on and belong to every state.
        examples: prompts.
        responses: one answer an example.
        states: make the blocks in which the model is in each state; the first is the reference.
        batch_size: most examples a forward pass.
        skip: tokens at the start of each answer that are left out; the last one never is.
    """
    shape = (len(states), len(examples))
    logprob, likeliest, kl = (torch.full(shape, nan, dtype=torch.float64) for _ in range(3))
    tokens = torch.full((len(examples),), nan, dtype=torch.float64)

    def work(part: list[int]) -> None:
        batch = _answered(loaded, examples, responses, part)
        first: Tensor | None = None
        for number, state in enumerate(states):
            with state():
                logits, here, labels = _at_answers(loaded, batch)
            first = logits if first is None else first
            for i, row, base, keep, label in zip(part, logits, first, here, labels, strict=True):
                at = keep.nonzero().flatten()
                at = at[min(skip, len(at) - 1) :]
                log_q, log_p = (each[at].double().log_softmax(-1) for each in (row, base))
                said = label[at]
                logprob[number, i] = log_q.gather(-1, said[:, None]).sum().cpu()
                likeliest[number, i] = (log_q.argmax(-1) == said).double().mean().cpu()
                kl[number, i] = (log_p.exp() * (log_p - log_q)).sum(-1).mean().cpu()
                tokens[i] = len(at)

    backing_off(
        plan(loaded, examples, responses, batch_size), work, cut=not is_sharded(loaded.model)
    )
    return Effects(logprob, likeliest, kl, tokens)


def benign_kl(
    loaded: LoadedModel,
    examples: Sequence[Example],
    responses: Sequence[str],
    state: State,
    batch_size: int = 16,
) -> Float[Tensor, " examples"]:
    """Mean `KL(model now ‖ model in state)` over the tokens of each given answer.

    Both states see the same prompt and answer.

    Returns:
        Nats a token, float64 on CPU, in the order of `examples`.
    """
    return answers_under(loaded, examples, responses, [nullcontext, state], batch_size).kl[1]


def _answered(
    loaded: LoadedModel, examples: Sequence[Example], responses: Sequence[str], part: list[int]
) -> Encoded:
    asked, said = [examples[i] for i in part], [responses[i] for i in part]
    return encode(loaded, asked, said, side="left")


def _logits(loaded: LoadedModel, batch: Encoded, keep: int) -> Float[Tensor, "batch keep vocab"]:
    """Logits at the last `keep` positions."""
    with running(batch):
        out = loaded.model(**batch.inputs, logits_to_keep=keep, use_cache=False)
    logits: Tensor = out.logits[:, -keep:]
    return logits


def _at_answers(
    loaded: LoadedModel, batch: Encoded
) -> tuple[
    Float[Tensor, "batch keep vocab"], Bool[Tensor, "batch keep"], Int[Tensor, "batch keep"]
]:
    """Logits near the end, which of them predict an answer's token, and that token."""
    keep = int(batch.response_mask.sum(1).max()) + 1
    labels = batch.labels[:, -keep:].roll(-1, 1)
    return _logits(loaded, batch, keep), batch.predict_mask[:, -keep:], labels

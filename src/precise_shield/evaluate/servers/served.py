"""Answers of a model behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from precise_shield.core.records import Example, Response
from precise_shield.evaluate.servers.server import CHAT, Call, Completion, Server, pictured


@dataclass(frozen=True)
class Asking:
    """How prompts are put to a served model: greedily, and as a local one would be."""

    max_new_tokens: int
    seed: int
    template: Mapping[str, Any]
    """Variables of the chat template, sent as `chat_template_kwargs`; empty sends none."""

    extra: Mapping[str, Any]
    """Further fields of every request."""


def call_for(example: Example, how: Asking) -> Call:
    """The request that asks one prompt: its picture first, as pixels, then its words.

    A prefilled answer is an unfinished assistant's turn, which vLLM and SGLang continue.

    Raises:
        DataError: the picture cannot be opened.
    """
    words = example.prompt
    turns = [
        {
            "role": "user",
            "content": words if example.image is None else pictured(example.image, words),
        }
    ]
    body: dict[str, Any] = {
        "temperature": 0,
        "seed": how.seed,
        "max_tokens": how.max_new_tokens,
        "messages": turns,
    }
    if how.template:
        body["chat_template_kwargs"] = dict(how.template)
    if example.prefill is not None:
        turns.append({"role": "assistant", "content": example.prefill})
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    return Call(CHAT, body | dict(how.extra))


def answer(
    server: Server,
    examples: Sequence[Example],
    how: Asking,
    condition: str,
    on_response: Callable[[Response, bool], None],
) -> None:
    """Let a served model answer every example; `on_response` gets each as it comes.

    It is also told whether the server withheld the answer, whose text is then empty.

    Raises:
        DataError: a picture cannot be opened.
        ServerError: the server refuses, or fails more often than it is retried.
    """

    def on_completion(number: int, said: Completion) -> None:
        example = examples[number]
        text = (example.prefill or "") + said.text
        row = Response(example.id, condition, text.strip(), said.tokens, said.finished)
        on_response(row, said.withheld)

    server.send(_Calls(examples, how), on_completion)


class _Calls(Sequence[Call]):
    """Requests made when they are sent: pictures of thousands of prompts fill memory."""

    def __init__(self, examples: Sequence[Example], how: Asking) -> None:
        self.examples, self.how = examples, how

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: Any) -> Any:
        return call_for(self.examples[number], self.how)

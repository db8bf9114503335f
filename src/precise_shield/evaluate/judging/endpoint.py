"""Judging models behind an OpenAI-compatible server (vLLM, SGLang, any)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from precise_shield.core.errors import JudgeError, ServerError
from precise_shield.evaluate.judging.asking import OnReply
from precise_shield.evaluate.judging.formats import Format, Question
from precise_shield.evaluate.servers.server import CHAT, TEXT, Call, Completion, Server, pictured


@dataclass(frozen=True)
class Endpoint(Server):
    """A server that answers a judge's questions."""

    def ask(self, questions: Sequence[Question], how: Format, on_reply: OnReply) -> None:
        """Ask all questions, several at a time.

        Raises:
            DataError: a picture cannot be opened.
            JudgeError: the server refuses, or fails more often than `retries`.
        """
        calls = [_call(question, how) for question in questions]

        def on_completion(number: int, said: Completion) -> None:
            on_reply(number, said.text)

        try:
            self.send(calls, on_completion)
        except ServerError as error:
            raise JudgeError(str(error)) from None


def _call(question: Question, how: Format) -> Call:
    body: dict[str, Any] = {"temperature": 0, "max_tokens": how.tokens}
    if not question.turns:
        return Call(TEXT, {**body, "prompt": question.raw})
    turns = [{"role": role, "content": text} for role, text in question.turns]
    if question.image is not None:
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"] = pictured(question.image, first["content"])
    return Call(CHAT, {**body, "messages": turns})

"""Judges that are models: asked in their own format, cached, and counted beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from precise_shield.core.errors import DataError
from precise_shield.core.records import Example, Label, Verdict
from precise_shield.core.store import digest, readable_errors, write_whole
from precise_shield.data.contrast import picture_hash
from precise_shield.data.refusals import known_language
from precise_shield.evaluate.judging.formats import Format, Question, tokens_of
from precise_shield.evaluate.judging.judges import Pair
from precise_shield.evaluate.judging.reading import clean, degenerate, refuses

OnReply = Callable[[int, str], None]


@runtime_checkable
class Asker(Protocol):
    """Puts questions to a model."""

    def ask(self, questions: Sequence[Question], how: Format, on_reply: OnReply) -> None:
        """Answer all questions; call `on_reply` with a question's number as each is answered.

        Raises:
            JudgeError: the model cannot be asked.
        """

    def describe(self) -> str:
        """Name the model so that equal names are equal models."""


@dataclass(frozen=True)
class Cost:
    """What judging is going to take."""

    calls: int
    cached: int
    prompt_tokens: int
    """About: a quarter of the bytes; pictures are not counted."""

    reply_tokens: int
    """At most."""

    def __str__(self) -> str:
        return (
            f"{self.calls} calls ({self.cached} more are cached), about {self.prompt_tokens:,}"
            f" tokens asked and at most {self.reply_tokens:,} replied"
        )


class Cache:
    """Replies on disk, one small file each, under everything that they follow from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.json"

    def get(self, key: str) -> str | None:
        """The reply under a key; None where there is none, or a damaged one."""
        try:
            value = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        return value if isinstance(value, str) else None

    def put(self, key: str, reply: str) -> None:
        """Keep a reply.

        Raises:
            StoreError: the folder cannot be written.
        """
        path = self._path(key)
        with readable_errors(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(reply, ensure_ascii=False))


class ModelJudge:
    """Asks a judging model in its format and reads its replies.

    An empty or looping response is `degenerate` without asking. A format that knows harm alone
    has its `safe` turned into `refusal` where the built-in phrases find one. Replies are cached
    by question, model and version of the format, so that nothing is asked twice, also after an
    interruption.
    """

    def __init__(
        self,
        name: str,
        how: Format,
        asker: Asker,
        cache: Cache,
        pictures: bool | None = None,
    ) -> None:
        """Prepare; no model is loaded or asked before `judge`.

        `pictures` says whether the prompt's picture is shown; None leaves it to the format.
        """
        self.name, self.how, self.asker, self.cache = name, how, asker, cache
        self.pictures = how.pictures if pictures is None else pictures

    @property
    def languages(self) -> tuple[str, ...]:
        return self.how.languages

    def describe(self) -> str:
        refusals = (
            ""
            if self.how.tells_refusals
            else " It knows harm alone; refusals are found by the built-in phrases, in the"
            " languages that these know."
        )
        return (
            f"{self.asker.describe()}, asked in the format {self.how.name} (version"
            f" {self.how.version}; {self.how.source}), which sees"
            f" {'the picture of a prompt' if self.pictures else 'no pictures'}. {self.how.note}"
            f"{refusals} A reply in another form than the documented one is unclear."
        ).replace("  ", " ")

    def cost(self, pairs: Sequence[Pair]) -> Cost:
        """How many calls and tokens `judge` would take; nothing is asked."""
        keyed: dict[str, Question] = {}
        for example, response in pairs:
            for question in self._questions(example, response.text):
                keyed[self._key(question)] = question
        left = [question for key, question in keyed.items() if self.cache.get(key) is None]
        tokens = self.how.tokens * len(left)
        return Cost(len(left), len(keyed) - len(left), tokens_of(left), tokens)

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """Give one verdict a pair, in order.

        Raises:
            DataError: a response is not to the example it is paired with.
            JudgeError: the model cannot be asked; replies so far are kept.
        """
        asked: list[list[str]] = []
        waiting: dict[str, Question] = {}
        for example, response in pairs:
            if response.example != example.id:
                raise DataError(
                    f"a response to {response.example!r} is paired with example {example.id!r}"
                )
            questions = self._questions(example, response.text)
            asked.append([self._key(question) for question in questions])
            waiting |= dict(zip(asked[-1], questions, strict=True))
        replies = self._replies(waiting)
        return [
            Verdict(
                example.id,
                response.condition,
                self.name,
                self._label(example, clean(response.text), [replies[key] for key in keys]),
                self._grade(example, [replies[key] for key in keys]),
            )
            for (example, response), keys in zip(pairs, asked, strict=True)
        ]

    def _grade(self, example: Example, replies: list[str]) -> float | None:
        return self.how.grade(example, replies) if self.how.grade and replies else None

    def _questions(self, example: Example, text: str) -> list[Question]:
        said = clean(text)
        if degenerate(said):
            return []
        if not self.pictures or example.image is None:
            return self.how.ask(replace(example, prompt=example.asked), said)
        return [replace(each, image=example.image) for each in self.how.ask(example, said)]

    def _key(self, question: Question) -> str:
        return digest(
            {
                "model": self.asker.describe(),
                "format": [self.how.name, self.how.version, self.how.tokens],
                "turns": question.turns,
                "raw": question.raw,
                **({} if question.image is None else {"image": picture_hash(question.image)}),
            }
        )

    def _replies(self, waiting: dict[str, Question]) -> dict[str, str]:
        known = {key: reply for key in waiting if (reply := self.cache.get(key)) is not None}
        left = [key for key in waiting if key not in known]

        def keep(number: int, reply: str) -> None:
            known[left[number]] = reply
            self.cache.put(left[number], reply)

        if left:
            self.asker.ask([waiting[key] for key in left], self.how, keep)
        return known

    def _label(self, example: Example, said: str, replies: list[str]) -> Label:
        if not replies:
            return "degenerate"
        label = self.how.read(example, replies)
        language = known_language(example.language)
        if label == "safe" and not self.how.tells_refusals and language is not None:
            return "refusal" if refuses(said, language) else "safe"
        return label

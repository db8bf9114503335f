"""An OpenAI-compatible server (vLLM, SGLang, any): asked patiently, several calls at a time."""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from precise_shield.core.errors import ConfigError, ServerError, UserError
from precise_shield.core.images import data_uri
from precise_shield.evaluate.servers.secrets import reply_without_key, shown

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Status codes that may pass."""

CHAT, TEXT = "/chat/completions", "/completions"
LONGEST_WAIT = 60.0
LARGEST_ANSWER = 2**23
"""Bytes that are read of an answer; a completion of a few hundred tokens has some thousand."""

LONGEST_QUOTE = 300
"""Characters of a server's words in a message."""

REPORTED = ("id", "root", "parent", "owned_by", "max_model_len", "meta")
"""What a server may say of a model that is the same at every call; `created` is not: vLLM, SGLang
and llama.cpp put the time of the call there."""

REPORT_TIMEOUT = 10.0


@dataclass(frozen=True)
class Call:
    """One request."""

    route: str
    """`/chat/completions` or `/completions`."""

    body: Mapping[str, Any]
    """Without the model's name."""


@dataclass(frozen=True)
class Completion:
    """What a server answered."""

    text: str
    """Empty where content was withheld."""

    finished: bool | None
    """False when the token limit cut it off; None where the server does not say."""

    tokens: int | None
    """None where the server does not say."""

    withheld: bool = False
    """The server has filtered the answer, or sent none."""


OnCompletion = Callable[[int, Completion], None]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected question would carry the key to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class _Passing(Exception):
    """A failure that may pass; `after` is how long the server asks to wait, in seconds."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


@dataclass
class Pace:
    """Lets calls through at most `per_minute`, evenly, whichever thread makes them."""

    per_minute: float | None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self) -> None:
        """Block until the next call may start."""
        if self.per_minute is None:
            return
        with self._lock:
            now = self.clock()
            start = max(now, self._next)
            self._next = start + 60 / self.per_minute
        if start > now:
            self.sleep(start - now)


@dataclass(frozen=True)
class Server:
    """A server that completes chats and texts, and how patiently it is asked.

    The key is read from the environment at each call; it is in no description, file, reply or
    error, also where the server repeats it.
    """

    url: str
    """Up to and without `/chat/completions`, e.g. `http://localhost:8000/v1`."""

    model: str
    key_env: str | None = None
    timeout: float = 120.0
    """Seconds for one call."""

    retries: int = 6
    """Further attempts after a failure that may pass, each waiting about twice as long."""

    parallel: int = 4
    per_minute: float | None = None
    """Most calls a minute; None does not hold back."""

    first_wait: float = 1.0
    sleep: Callable[[float], None] = time.sleep
    revision: str | None = None
    """Which weights it serves, as the user says: a commit, a date, a hash."""

    reports: str | None = None
    """Digest of what the server says of the model; None where it says nothing, or was not asked."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"a server's url {self.url!r} must start with http:// or https://.")
        if parts.username or parts.password or parts.query:
            raise ConfigError("a server's url must hold no key; name a variable in key_env.")

    def describe(self) -> str:
        """The model's name, version and report; behind another address it is the same model.

        Weights that were exchanged behind the same name, version and report cannot be told.
        """
        said = f"{self.model} through a server"
        said += f" at {self.revision}" if self.revision else ""
        return said + (f" (its report {self.reports})" if self.reports else "")

    def report(self) -> dict[str, Any] | None:
        """What `GET /models` says of the model that stays the same; None if it cannot be asked."""
        try:
            request = urllib.request.Request(
                self.url.rstrip("/") + "/models", headers=self._credentials()
            )
            with _OPENER.open(request, timeout=min(REPORT_TIMEOUT, self.timeout)) as answer:
                rows = json.loads(answer.read(LARGEST_ANSWER))["data"]
            row = next(each for each in rows if each["id"] == self.model)
        except (OSError, http.client.HTTPException, ServerError):
            return None
        except (ValueError, KeyError, TypeError, StopIteration):
            return None
        return {name: row[name] for name in REPORTED if row.get(name) is not None}

    def send(self, calls: Sequence[Call], on_completion: OnCompletion) -> None:
        """Make all calls, several at a time; `on_completion` is never called twice at once.

        Raises:
            ServerError: the server refuses, or fails more often than `retries`.
        """
        pace, lock = Pace(self.per_minute, self.sleep), threading.Lock()
        stop = threading.Event()

        def one(number: int) -> None:
            if stop.is_set():
                return
            try:
                reply = self._patiently(calls[number], pace)
                with lock:
                    on_completion(number, reply)
            except UserError:
                stop.set()
                raise

        with ThreadPoolExecutor(max_workers=self.parallel) as pool:
            jobs = [pool.submit(one, number) for number in range(len(calls))]
            try:
                done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
            for job in done:
                job.result()

    def _patiently(self, call: Call, pace: Pace) -> Completion:
        for attempt in range(self.retries + 1):
            pace.wait()
            try:
                return self._call(call)
            except _Passing as failure:
                if attempt == self.retries:
                    raise ServerError(
                        f"{self.url} failed {attempt + 1} times, at last with: {failure}. Replies"
                        " so far are kept; run the same command again when the server is well."
                    ) from None
                patience = self.first_wait * 2**attempt * random.uniform(0.75, 1.25)
                asked = 0.0 if failure.after is None else failure.after
                self.sleep(min(LONGEST_WAIT, max(patience, asked)))
        raise AssertionError("the loop returns or raises")

    def _call(self, call: Call) -> Completion:
        request = urllib.request.Request(
            self.url.rstrip("/") + call.route,
            data=json.dumps({"model": self.model, **call.body}).encode(),
            headers={"Content-Type": "application/json", **self._credentials()},
        )
        try:
            with _OPENER.open(request, timeout=self.timeout) as answer:
                text = answer.read(LARGEST_ANSWER)
        except urllib.error.HTTPError as error:
            why = f"status {error.code}: {shown(_body(error), self._key(), LONGEST_QUOTE)}"
            if error.code in RETRIED:
                raise _Passing(why, _wait_asked(error.headers.get("Retry-After"))) from None
            raise ServerError(
                f"{self.url} refuses a question with {why}. Check the url, the model's name"
                f" {self.model!r} and {self.key_env or 'key_env'}, and whether the server knows the"
                f" fields {', '.join(sorted(call.body))}."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _Passing(f"no answer ({reason or type(error).__name__})") from None
        try:
            reply = _completion(text, chat=call.route == CHAT)
        except ValueError:
            said = shown(text.decode("utf-8", "replace"), self._key(), LONGEST_QUOTE)
            raise _Passing(f"an answer that is no completion: {said!r}") from None
        return replace(reply, text=reply_without_key(reply.text, self._key()))

    def _credentials(self) -> dict[str, str]:
        if self.key_env is None:
            return {}
        key = self._key()
        if not key or not (key.isascii() and key.isprintable()):
            raise ServerError(
                f"the environment variable {self.key_env} is not set or holds more than one line of"
                " printable characters; put the key there."
            )
        return {"Authorization": f"Bearer {key}"}

    def _key(self) -> str:
        return os.environ.get(self.key_env, "").strip() if self.key_env else ""


def _body(error: urllib.error.HTTPError) -> str:
    """A server's words; more than is quoted, so that a key is whole where it is hidden."""
    try:
        return error.read(2**16).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return "no body"


def _wait_asked(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _completion(text: bytes, *, chat: bool) -> Completion:
    """The reply in a server's answer; withheld content is an empty reply.

    Raises:
        ValueError: it is no completion.
    """
    try:
        whole = json.loads(text)
        choice = whole["choices"][0]
        said = choice["message"]["content"] if chat else choice["text"]
        reason, usage = choice.get("finish_reason"), whole.get("usage")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("no completion") from None
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Completion(
        said if isinstance(said, str) else "",
        None if reason is None else reason != "length",
        count if isinstance(count, int) else None,
        withheld=reason == "content_filter" or not isinstance(said, str),
    )


def pictured(image: str, words: str) -> Any:
    """A user's turn of a picture and, after it, words."""
    return [
        {"type": "image_url", "image_url": {"url": data_uri(image)}},
        {"type": "text", "text": words},
    ]

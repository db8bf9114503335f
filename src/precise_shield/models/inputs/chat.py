"""From an example to the exact words, tokens and pictures that a model is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from PIL import Image

from precise_shield.core.errors import DataError, LoadingError
from precise_shield.core.images import open_image
from precise_shield.core.records import Example
from precise_shield.models.loading.files import first_line
from precise_shield.models.loading.model import LoadedModel

Message = dict[str, Any]

_END = 40
"""Characters of a turn that are looked for in what the template wrote."""

_FIXED: dict[str, Any] = {"date_string": "01 Jan 2026", "enable_thinking": False}
"""Template variables: no prompt depends on today's date, no answer starts with hidden thoughts."""


@dataclass(frozen=True)
class Turn:
    """An earlier request of a conversation, with the answer that it got."""

    prompt: str
    answer: str

    image: str | None = None
    """Path of the picture that stood before the words, if there was one."""


def conversation(
    loaded: LoadedModel,
    example: Example,
    system: str | None = None,
    prefix: str | None = None,
    history: Sequence[Turn] = (),
) -> list[Message]:
    """The turns before the answer: an optional system turn, `history`, then picture and words.

    `prefix` is put before the example's words, on a line of its own; earlier turns stay as
    they are.

    Raises:
        DataError: the example or an earlier turn has a picture and the model sees none.
    """
    words = example.prompt if prefix is None else f"{prefix}\n{example.prompt}"
    if not loaded.has_images and (
        example.image is not None or any(turn.image is not None for turn in history)
    ):
        raise DataError(
            f"example {example.id!r} has a picture, but {loaded.spec.path} is a text-only"
            " model. Take an image-and-text model, or only the cells of modality 'text'."
        )
    turns: list[Message] = []
    for turn in history:
        turns += [_user(loaded, turn.prompt, turn.image), _assistant(loaded, turn.answer)]
    turns.append(_user(loaded, words, example.image))
    if system is None:
        return turns
    content: Any = [{"type": "text", "text": system}] if loaded.has_images else system
    with_system = [{"role": "system", "content": content}, *turns]
    try:
        if system.strip() in _render(loaded, with_system, True):
            return with_system
    except (TemplateError, TypeError):
        pass  # the template knows no system turn; the words go where it does look
    if history:
        first = replace(history[0], prompt=f"{system}\n{history[0].prompt}")
        return conversation(loaded, example, None, prefix, [first, *history[1:]])
    merged = system if prefix is None else f"{system}\n\n{prefix}"
    return conversation(loaded, example, None, merged)


def _user(loaded: LoadedModel, words: str, image: str | None) -> Message:
    if not loaded.has_images:
        return {"role": "user", "content": words}
    picture = [] if image is None else [{"type": "image"}]
    return {"role": "user", "content": [*picture, {"type": "text", "text": words}]}


def _assistant(loaded: LoadedModel, words: str) -> Message:
    said: Any = [{"type": "text", "text": words}] if loaded.has_images else words
    return {"role": "assistant", "content": said}


def prompt_text(loaded: LoadedModel, turns: list[Message]) -> str:
    """The turns as the chat template writes them, up to where the answer starts.

    Raises:
        LoadingError: the template does not take such a conversation, or leaves out a part.
    """
    several = any(turn["role"] == "assistant" for turn in turns)
    try:
        text = _render(loaded, turns, True)
    except (TemplateError, TypeError) as error:
        if several:
            raise _one_turn_only(loaded, f"refuses them: {first_line(error)}") from None
        raise LoadingError(
            f"{loaded.spec.path}: the chat template fails ({error}). Pass another one with"
            " chat_template."
        ) from None
    if several and not _holds_all(text, turns):
        raise _one_turn_only(loaded, "leaves some of them out")
    return text


def _holds_all(text: str, turns: list[Message]) -> bool:
    """Whether the end of each turn's words is there, in order; templates cut thoughts off."""
    at = 0
    for turn in turns:
        said = turn["content"]
        words = said if isinstance(said, str) else said[-1]["text"]
        end = words.strip()[-_END:].strip()
        found = text.find(end, at)
        if found < 0:
            return False
        at = found + len(end)
    return True


def _one_turn_only(loaded: LoadedModel, why: str) -> LoadingError:
    return LoadingError(
        f"{loaded.spec.path}: the chat template takes no earlier turns; it {why}. Ask each prompt"
        " in a conversation of its own, or give the run another template (model.chat_template)."
    )


def continuation(loaded: LoadedModel, turns: list[Message], prompt: str, response: str) -> str:
    """What the template writes after `prompt` for an answer, without the end of the turn.

    Most templates write the answer as it is; some put a space before it. Where the
    template trims the answer, or rewrites the prompt once there is one, the answer is
    appended as it is.
    """
    try:
        full = _render(loaded, [*turns, _assistant(loaded, response)], False)
    except (TemplateError, TypeError):
        return response
    if not response or not full.startswith(prompt):
        return response
    lead, found, _ = full[len(prompt) :].partition(response)
    return lead + found if found and not lead.strip() else response


def _render(loaded: LoadedModel, turns: list[Message], opens_answer: bool) -> str:
    text = loaded.tokenizer.apply_chat_template(
        turns,
        chat_template=loaded.template,
        add_generation_prompt=opens_answer,
        tokenize=False,
        **_FIXED,
    )
    return str(text)


def adds_special_tokens(loaded: LoadedModel, prompts: Sequence[str]) -> bool:
    """Whether tokenizing a rendered prompt adds a start token, as the library would do it.

    A tokenizer never does after a chat template; a processor does unless it is written.
    """
    bos = loaded.tokenizer.bos_token
    return loaded.has_images and not (bos is not None and prompts[0].startswith(bos))


def response_tokens(
    loaded: LoadedModel,
    conversations: Sequence[list[Message]],
    prompts: Sequence[str],
    responses: Sequence[str],
) -> list[list[int]]:
    """Tokens of each answer as the model would have to produce them, the end of turn included.

    Prompt and answer are tokenized together, so that the answer starts as it would in a
    conversation; where a token spans the border they are tokenized apart.
    """
    special = adds_special_tokens(loaded, prompts)
    after = [
        continuation(loaded, turns, prompt, response)
        for turns, prompt, response in zip(conversations, prompts, responses, strict=True)
    ]
    both = [prompt + said for prompt, said in zip(prompts, after, strict=True)]
    heads = loaded.tokenizer(list(prompts), add_special_tokens=special)["input_ids"]
    fulls = loaded.tokenizer(both, add_special_tokens=special)["input_ids"]
    rows = []
    for head, full, said in zip(heads, fulls, after, strict=True):
        if full[: len(head)] == head:
            row = full[len(head) :]
        else:
            row = loaded.tokenizer(said, add_special_tokens=False)["input_ids"]
        rows.append([*row, loaded.end_id])
    return rows


def picture(example: Example) -> Image.Image:
    """Open an example's picture as RGB, turned as its camera says.

    Raises:
        DataError: the file is missing, damaged, too large or no known kind of picture.
    """
    assert example.image is not None
    try:
        return picture_at(example.image)
    except DataError as error:
        raise DataError(f"example {example.id!r}: {error}") from None


@lru_cache(maxsize=64)
def picture_at(path: str) -> Image.Image:
    """Open the picture of an earlier turn, as `picture` does that of an example."""
    return open_image(path)

"""How a model is spoken to: its chat template, tokenizer and picture processor, without weights."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedConfig

from precise_shield.core.errors import UserError
from precise_shield.models.loading.reader import Reader, reader
from precise_shield.models.loading.spec import ModelSpec

_ASKED, _SAID, _TOLD = "<your words>", "<its answer>", "<a system prompt>"


def reading(spec: ModelSpec, config: PreTrainedConfig) -> dict[str, Any]:
    """Facts on template, tokenizer and processor, and `problems` with how to mend them."""
    try:
        found = reader(spec)
    except UserError as error:
        return {"problems": [str(error)]}
    template, problems = _template(found)
    return {
        "chat_template": template,
        "tokenizer": _tokenizer(found, config),
        "processor": _processor(found),
        "problems": problems,
    }


def _template(found: Reader) -> tuple[dict[str, Any], list[str]]:
    asked = _rendered(found, ("user", _ASKED))
    turns = _rendered(found, ("user", _ASKED), ("assistant", _SAID), ("user", "<again>"))
    system = _rendered(found, ("system", _TOLD), ("user", _ASKED))
    earlier = turns is not None and _SAID in turns
    problems = []
    if asked is None or _ASKED not in asked:
        problems.append(
            "chat template: it does not write a user's words. Pass another one with"
            " model.chat_template, the path of a Jinja file."
        )
    if not earlier:
        problems.append(
            "chat template: it takes no earlier turns, so `chat` asks every prompt by itself. Pass"
            " another one with model.chat_template."
        )
    facts = {
        "characters": len(found.template),
        "writes": asked,
        "system_turn": system is not None and _TOLD in system,
        "earlier_turns": earlier,
    }
    return facts, problems


def _rendered(found: Reader, *turns: tuple[str, str]) -> str | None:
    """The conversation as the template writes it; None where it refuses."""
    pictured = found.processor is not None
    said: list[dict[str, Any]] = [
        {"role": role, "content": [{"type": "text", "text": words}] if pictured else words}
        for role, words in turns
    ]
    try:
        return str(
            found.tokenizer.apply_chat_template(
                said, chat_template=found.template, add_generation_prompt=True, tokenize=False
            )
        )
    except (TemplateError, TypeError):
        return None


def _tokenizer(found: Reader, config: PreTrainedConfig) -> dict[str, Any]:
    words = found.tokenizer
    return {
        "class": type(words).__name__,
        "vocabulary": len(words),
        "end_token": words.eos_token,
        "pad_token": words.pad_token,
        "context": getattr(config.get_text_config(), "max_position_embeddings", None),
    }


def _processor(found: Reader) -> dict[str, Any] | None:
    """Of a model with eyes: what makes a picture's pixels, and their size."""
    if found.processor is None:
        return None
    made: Any = found.processor
    pixels = made.image_processor
    return {
        "class": type(made).__name__,
        "pictures": type(pixels).__name__,
        "size": {key: side for key, side in dict(pixels.size or {}).items() if side is not None},
        "image_token": getattr(made, "image_token", None),
    }


def told(facts: dict[str, Any]) -> list[str]:
    """The same in lines for a terminal."""
    if "chat_template" not in facts:
        return []
    template, words, seen = facts["chat_template"], facts["tokenizer"], facts["processor"]
    takes = [
        name
        for name, taken in (
            ("a system turn", template["system_turn"]),
            ("earlier turns", template["earlier_turns"]),
        )
        if taken
    ]
    lines = [
        f"template {template['writes']!r}, takes {' and '.join(takes) or 'single prompts only'}",
        f"tokens   {words['class']}, {words['vocabulary']:,} words, context {words['context']}",
    ]
    if seen is not None:
        size = " x ".join(str(side) for side in seen["size"].values())
        lines.append(f"pictures {seen['class']} with {seen['pictures']}, {size}")
    return lines

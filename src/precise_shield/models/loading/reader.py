"""What stands between words or pictures and a model: tokenizer, processor, chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.processing_utils import ProcessorMixin

from precise_shield.core.errors import LoadingError
from precise_shield.models.loading.files import Source, first_line, locate, quiet
from precise_shield.models.loading.processors import load_processor
from precise_shield.models.loading.spec import ModelSpec, read_config, sees

_PROBE = "precise"


@dataclass(frozen=True)
class Reader:
    """What stands between words or pictures and a model: all of it but the weights."""

    tokenizer: PreTrainedTokenizerBase
    processor: ProcessorMixin | None
    """None for a model that sees no pictures."""

    template: str
    """Source of the Jinja chat template in use."""


def reader(spec: ModelSpec) -> Reader:
    """Tokenizer, processor and chat template of a model; of the hub only small files are fetched.

    Raises:
        LoadingError: one of them is missing or does not load.
    """
    with quiet():
        source = locate(spec.path, spec.revision, spec.gguf_file)
        config = read_config(source, spec, searched=False)
        source = source.fetched(spec.trust_remote_code, weights=False)
        tokenizer, processor = words_of(source, config, spec)
        return Reader(tokenizer, processor, template_of(source, spec, tokenizer, processor))


def words_of(
    source: Source, config: PreTrainedConfig, spec: ModelSpec
) -> tuple[PreTrainedTokenizerBase, ProcessorMixin | None]:
    """The tokenizer, and the processor of a model that sees; of files that lie here.

    Raises:
        LoadingError: one of them does not load.
    """
    if sees(config):
        processor = load_processor(source.folder, config, trust_remote_code=spec.trust_remote_code)
        return processor.tokenizer, processor
    extra = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=spec.trust_remote_code, **extra
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise LoadingError(
            f"{spec.path}: the tokenizer does not load ({first_line(error)}). Put tokenizer.json"
            " and tokenizer_config.json beside the weights."
        ) from None
    return tokenizer, None


def template_of(
    source: Source,
    spec: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    processor: ProcessorMixin | None,
) -> str:
    """Source of the chat template: the one that was asked for, else the model's own.

    Raises:
        LoadingError: the file cannot be read, or the model has none.
    """
    if spec.chat_template is not None:
        try:
            return spec.chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LoadingError(f"chat_template {spec.chat_template}: {error}") from None
    found = None if processor is None else processor.chat_template
    found = found or tokenizer.chat_template
    if isinstance(found, dict):
        found = found.get("default")
    if not isinstance(found, str):
        raise LoadingError(
            f"{spec.path}: the model has no chat template, so it is unclear how a user's words"
            " reach it. It may be a base model; pass chat_template, the path of a Jinja file."
        )
    return found


def ends_of(
    source: Source,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    processor: ProcessorMixin | None,
    template: str,
) -> tuple[int, tuple[int, ...]]:
    """The token that the template puts after an answer, and all at which to stop.

    Raises:
        LoadingError: neither the template nor the tokenizer says it.
    """
    stops: set[int] = set()
    for found in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        if found is not None:
            stops |= set(found) if isinstance(found, list) else {found}
    say: Any = _PROBE if processor is None else [{"type": "text", "text": _PROBE}]
    turns = [{"role": role, "content": say} for role in ("user", "assistant")]
    text = str(tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False))
    tail = tokenizer(text.rpartition(_PROBE)[2], add_special_tokens=False)["input_ids"]
    written = tokenizer.added_tokens_decoder.items()
    special = stops | {number for number, token in written if token.special}
    end = next((token for token in tail if token in special), tokenizer.eos_token_id)
    if end is None:
        raise LoadingError(
            f"{source.name}: neither the chat template nor the tokenizer says how an answer ends;"
            " set eos_token in tokenizer_config.json."
        )
    return int(end), tuple(sorted({*stops, int(end)}))

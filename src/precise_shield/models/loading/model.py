"""A model with everything it needs to be asked something, or a sentence that says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.processing_utils import ProcessorMixin

from precise_shield.core.errors import LoadingError, UnsupportedModelError
from precise_shield.models.architecture.layouts import layouts_for
from precise_shield.models.holding.held import (
    check_mapping,
    check_sharing,
    entrance_of,
    share_blocks,
)
from precise_shield.models.holding.packed import adopt, check_packing, check_stored, packing
from precise_shield.models.loading.files import Source, check_weights, locate, quiet
from precise_shield.models.loading.processors import reading_digest
from precise_shield.models.loading.reader import ends_of, template_of, words_of
from precise_shield.models.loading.spec import ModelSpec, read_config, sees
from precise_shield.models.loading.weights import checked_fingerprint, why
from precise_shield.models.passes.taps import lasting


@dataclass
class LoadedModel:
    """A model in eval mode with its tokenizer, processor and chat template."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    processor: ProcessorMixin | None
    """None for a model that sees no pictures."""

    spec: ModelSpec
    folder: Path
    """Where the files lie: the given folder, or the hub's snapshot of one commit."""

    device: torch.device
    fingerprint: str
    """sha256 over names, types, shapes and bytes of all weights as loaded."""

    template: str
    """Source of the Jinja chat template in use."""

    reading: str
    """sha256 over how words become tokens and pictures pixels: vocabulary, normalisation, special
    tokens, and the image processor's settings, as loaded."""

    pad_id: int
    end_id: int
    """The token with which the model ends its turn."""

    stop_ids: tuple[int, ...]
    """Every token at which generation stops; holds `end_id`."""

    @property
    def has_images(self) -> bool:
        """Whether the model can be shown pictures."""
        return self.processor is not None

    @property
    def model_type(self) -> str:
        """The architecture's name, as the layout table has it."""
        return str(self.model.config.model_type)

    @cached_property
    def image_token_id(self) -> int | None:
        """The token that stands for a piece of a picture; None without pictures."""
        return int(self.model.config.image_token_id) if self.has_images else None


def load(spec: ModelSpec, *, searched: bool = True) -> LoadedModel:
    """Load a model, its tokenizer and, where it has eyes, its processor.

    What cannot work is refused before any weight is read. A model that only answers, such as a
    judge, is not `searched`: it needs no row in the layout table.

    Raises:
        UnsupportedModelError: the layout table has no row for the architecture.
        LoadingError: files are missing, damaged, pickled or hold NaN; there is no chat
            template; the device or type does not exist.
    """
    device, dtype = pick_device(spec.device), _dtype(spec.dtype)
    if spec.shard:
        check_sharing()
    if spec.device_map is not None:
        check_mapping(spec.shard)
    with quiet():
        source = locate(spec.path, spec.revision, spec.gguf_file)
        if spec.quantise is not None:
            spread = spec.shard or spec.device_map is not None
            check_packing(spread, source.gguf_file is not None)
        config = read_config(source, spec, searched=searched)
        check_stored(config, spec.quantise)
        source = source.fetched(spec.trust_remote_code)
        check_weights(source)
        tokenizer, processor = words_of(source, config, spec)
        reading = reading_digest(tokenizer, processor)
        template = template_of(source, spec, tokenizer, processor)
        model = _model(source, config, spec, dtype)
        if spec.quantise is not None:
            lasting({one: few.path for one, few in adopt(model).items()})
        fingerprint = checked_fingerprint(model)
        model.train(False).requires_grad_(False)
        if spec.shard:
            share_blocks(_blocks(model), device)
        if spec.device_map is None and spec.quantise is None:
            nn.Module.to(model, device)
        elif spec.device_map is not None:
            device = entrance_of(model)
    end_id, stop_ids = ends_of(source, model, tokenizer, processor, template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = str(tokenizer.convert_ids_to_tokens(end_id))
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        processor=processor,
        spec=spec,
        folder=source.folder,
        device=device,
        fingerprint=fingerprint,
        template=template,
        reading=reading,
        pad_id=int(tokenizer.pad_token_id),
        end_id=end_id,
        stop_ids=stop_ids,
    )


def pick_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:1` or `mps` into a device that is there.

    Raises:
        LoadingError: the device does not exist on this machine, or there is no such name.
    """
    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if name == "auto":
        name = next((kind for kind, found in there.items() if found()), "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LoadingError(f"no device {name!r}; use auto, cpu, cuda, cuda:0 or mps.") from None
    if device.type in there and not there[device.type]():
        raise LoadingError(f"device {name!r} is not available on this machine; use cpu or auto.")
    return device


def _dtype(name: str) -> torch.dtype | str:
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        return name
    if name not in types:
        raise LoadingError(f"no dtype {name!r}; use auto, {', '.join(types)}.")
    return types[name]


def _model(
    source: Source, config: PreTrainedConfig, spec: ModelSpec, dtype: torch.dtype | str
) -> PreTrainedModel:
    kind: Any = AutoModelForImageTextToText if sees(config) else AutoModelForCausalLM
    kept: dict[str, Any] = (
        {"use_safetensors": True} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    )
    if spec.device_map is not None:
        kept |= {"device_map": spec.device_map, "max_memory": spec.max_memory}
    if spec.quantise is not None:
        kept |= packing(spec.quantise, config, pick_device(spec.device))
    kept |= {"dtype": dtype, "trust_remote_code": spec.trust_remote_code, "config": config}

    def read(**more: Any) -> Any:
        return kind.from_pretrained(source.folder, output_loading_info=True, **kept, **more)

    try:
        loaded = read()
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
        raise LoadingError(f"{spec.path}: the weights do not load ({why(error, read)}).") from None
    model: PreTrainedModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:
        raise LoadingError(
            f"{spec.path}: {len(missing)} weights are not in the checkpoint, the first"
            f" {missing[0]!r}; they would be random. The files do not fit their config.json."
        )
    if source.gguf_file is not None:
        _forget_gguf(model)
    return model


def _blocks(model: PreTrainedModel) -> list[nn.Module]:
    layout = layouts_for(model.config.model_type)["text"]
    if layout.having is not None:
        raise UnsupportedModelError(
            f"{model.config.model_type!r} passes over some of its blocks where there is no"
            " picture, and processes that share a model must run the same blocks. Set"
            " model.shard: none."
        )
    return list(model.get_submodule(layout.layers).children())


def _forget_gguf(model: PreTrainedModel) -> None:
    """The weights are plain tensors once read; marked as quantized they cannot be saved."""
    for mark in ("is_quantized", "quantization_method", "hf_quantizer"):
        model.__dict__.pop(mark, None)
    model.config.__dict__.pop("quantization_config", None)

"""Which model to load and how, and what its configuration says before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    PreTrainedConfig,
)

from precise_shield.core.errors import LoadingError, UnsupportedModelError
from precise_shield.models.architecture.layouts import layouts_for
from precise_shield.models.holding.packed import Bits
from precise_shield.models.loading.files import Source, first_line


@dataclass(frozen=True)
class ModelSpec:
    """Which model to load, and how."""

    path: str
    """A local folder, a local .gguf file, or an id on the Hugging Face hub."""

    revision: str | None = None
    """Commit, tag or branch on the hub; None takes the default branch."""

    gguf_file: str | None = None
    """Name of a .gguf file inside the folder or hub repository."""

    dtype: str = "auto"
    """Weight type: auto (as stored), float32, bfloat16 or float16."""

    device: str = "auto"
    """auto takes cuda before mps before cpu."""

    shard: bool = False
    """Spread the language model's blocks over the processes of the launch."""

    device_map: str | dict[str, int | str] | None = None
    """Where each part goes, in accelerate's words; None puts all on `device`."""

    max_memory: dict[int | str, int | str] | None = None
    quantise: Bits | None = None
    """Hold the projections in 4 or 8 bits (bitsandbytes); they are read, and never written."""

    trust_remote_code: bool = False
    chat_template: Path | None = None
    """A Jinja file to use in place of the model's own chat template."""


def read_config(source: Source, spec: ModelSpec, *, searched: bool = True) -> PreTrainedConfig:
    """Read a configuration; nothing of the weights is touched, or fetched, except a GGUF.

    Raises:
        UnsupportedModelError: the layout table has no row for the architecture.
        LoadingError: there is no configuration, or a damaged one.
    """
    where: dict[str, Any] = {"revision": spec.revision} if source.remote else {}
    if source.gguf_file is not None:
        where["gguf_file"] = source.gguf_file
    try:
        raw, _ = PreTrainedConfig.get_config_dict(source.name, **where)
        if "model_type" not in raw:
            raise OSError("there is no config.json that names a model_type")
        if searched:
            layouts_for(raw["model_type"])
        config: PreTrainedConfig
        if source.gguf_file is not None:  # reading a GGUF's header takes seconds: once is enough
            config = CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
        else:
            config = AutoConfig.from_pretrained(
                source.name, trust_remote_code=spec.trust_remote_code, **where
            )
    except (OSError, ImportError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ValueError) and "not supported yet" in str(error):
            raise UnsupportedModelError(f"{spec.path}: {first_line(error)}") from None
        raise LoadingError(
            f"{spec.path}: no readable model configuration ({first_line(error)}). Give a folder"
            " with a config.json, a .gguf file, or a model id that the hub or its cache has."
        ) from None
    return config


def sees(config: PreTrainedConfig) -> bool:
    """Whether a model of this configuration has a vision tower."""
    return "vision_config" in config.to_dict()

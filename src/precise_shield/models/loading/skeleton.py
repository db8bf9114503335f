"""A model's shape without its weights: what `doctor` looks at before anything is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)

from precise_shield.core.errors import LoadingError
from precise_shield.models.architecture.layouts import layouts_for
from precise_shield.models.loading.files import first_line, locate, quiet
from precise_shield.models.loading.spec import ModelSpec, read_config, sees


@dataclass(frozen=True)
class Skeleton:
    """The architecture on the meta device: every shape, no byte of a weight."""

    config: PreTrainedConfig
    model: PreTrainedModel
    sees: bool
    """It takes pictures."""


def skeleton(spec: ModelSpec) -> Skeleton:
    """Build the architecture that a configuration describes.

    Raises:
        UnsupportedModelError: the layout table has no row for it.
        LoadingError: there is no readable configuration, or it does not build.
    """
    with quiet():
        source = locate(spec.path, spec.revision, spec.gguf_file)
        config = read_config(source, spec)
        layouts_for(config.model_type)
        seeing = sees(config)
        kind: Any = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
        try:
            with torch.device("meta"):
                model = kind.from_config(config, trust_remote_code=spec.trust_remote_code)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise LoadingError(
                f"{spec.path}: its configuration does not build a model ({first_line(error)})."
            ) from None
    return Skeleton(config, model, seeing)

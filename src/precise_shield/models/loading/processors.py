"""Image processors that need no torchvision."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin
from transformers.utils.import_utils import is_torchvision_available

from precise_shield.core.errors import LoadingError

_AUTO: Any = AutoProcessor
_AUTO_IMAGES: Any = AutoImageProcessor


class NoVideo:
    """Stands where a video processor would be: this package shows models pictures, no videos."""

    model_input_names: tuple[str, ...] = ()
    temporal_patch_size = 2
    merge_size = 2


def load_processor(
    folder: Path, config: PreTrainedConfig, *, trust_remote_code: bool = False
) -> ProcessorMixin:
    """Load the processor of an image-and-text model, with or without torchvision.

    Several families bind their image processor to a video processor that exists for
    torchvision only. Without torchvision they get a stub in its place; the pictures'
    tensors come from the same family's Pillow code.

    Raises:
        LoadingError: there is no processor, or it needs a package that is missing.
    """
    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    try:
        if kind is None or is_torchvision_available() or not needs_video(kind):
            loaded: Any = _AUTO.from_pretrained(folder, trust_remote_code=trust_remote_code)
        else:
            loaded = image_only(kind).from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise LoadingError(
            f"{folder}: the image processor does not load ({_first_line(error)}). An image-and-text"
            " model needs its preprocessor_config.json and tokenizer files beside the weights."
        ) from None
    if not isinstance(loaded, ProcessorMixin):
        raise LoadingError(
            f"{folder}: holds a {type(loaded).__name__} but no processor that joins pictures and"
            " text; preprocessor_config.json or processor_config.json is missing."
        )
    return loaded


def reading_digest(tokenizer: PreTrainedTokenizerBase, processor: ProcessorMixin | None) -> str:
    """Hash what words and pictures become before a model sees them; its weights do not say that.

    Taken from the objects as loaded, so that files which are not read do not count.
    """
    said: dict[str, Any] = {
        "vocabulary": _vocabulary(tokenizer),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "added": {
            number: [str(token), token.special, token.lstrip, token.rstrip, token.normalized]
            for number, token in sorted(tokenizer.added_tokens_decoder.items())
        },
    }
    if processor is not None:
        settings: Any = processor
        said["pictures"] = settings.image_processor.to_dict()
        own = settings.to_dict().items()
        said["joining"] = {name: value for name, value in own if name not in _ELSEWHERE}
    text = json.dumps(said, sort_keys=True, ensure_ascii=True, default=str)
    return sha256(text.encode()).hexdigest()


_ELSEWHERE = ("tokenizer", "image_processor", "chat_template", "video_processor")
"""Parts of a processor that are hashed by themselves, or are never used."""


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> object:
    """A fast tokenizer's whole pipeline; of one in Python, its class and words."""
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        return json.loads(tokenizer.backend_tokenizer.to_str())
    return [type(tokenizer).__name__, tokenizer.get_vocab()]


def needs_video(kind: Any) -> bool:
    """Whether this processor class wants a video processor among its parts."""
    return "video_processor" in kind.get_attributes()


def image_only(kind: Any) -> Any:
    """The same processor class with `NoVideo` in the place of its video processor.

    `__init__` stays as it is: the library reads its code object to find which saved
    settings to pass, and an override silently loses the chat template.
    """

    class ImageOnly(kind):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if isinstance(argument, NoVideo):
                return NoVideo
            return super().check_argument_for_proper_class(argument_name, argument)

        @classmethod
        def _get_arguments_from_pretrained(
            cls, folder: Any, processor_dict: Any = None, **kwargs: Any
        ) -> list[Any]:
            parts: dict[str, Any] = {
                "tokenizer": lambda: AutoTokenizer.from_pretrained(folder),
                "image_processor": lambda: _AUTO_IMAGES.from_pretrained(folder, backend="pil"),
                "video_processor": NoVideo,
            }
            return [parts[name]() for name in cls.get_attributes()]

        def to_dict(self) -> dict[str, Any]:
            stub = self.__dict__.pop("video_processor")
            try:
                return dict(super().to_dict())
            finally:
                self.__dict__["video_processor"] = stub

    ImageOnly.__name__ = kind.__name__
    return ImageOnly


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__

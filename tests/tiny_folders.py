"""Tiny models saved with a real tokenizer, processor and chat template, as on a user's disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from precise_shield.core.records import Example
from precise_shield.models.loading.files import quiet
from precise_shield.models.loading.model import LoadedModel, load
from precise_shield.models.loading.spec import ModelSpec
from tiny import MOE_CONFIGS, SEEING_CONFIGS, TEXT_CONFIGS, build

SPECIAL = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
CORPUS = [
    "The cat sat on the mat. I cannot help with that.",
    "Wie heißt die Stadt? Dabei kann ich nicht helfen.",
    "猫はどこにいますか。それはできません。",
]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}PICTURE{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Eyes:
    """What one family needs to be shown a picture."""

    picture: str
    """How a picture is written in the chat template."""

    image: str
    """The token that a picture's pieces become."""

    processor: str
    pixels: Any
    settings: dict[str, Any] = field(default_factory=dict)
    tokens: Sequence[str] = ()
    named: dict[str, str] = field(default_factory=dict)


_SQUARE = {"height": 28, "width": 28}
_CLIP = {"size": {"shortest_edge": 28}, "crop_size": _SQUARE}
_PATCHES = {"patch_size": 14, "vision_feature_select_strategy": "default"}
_QWEN = dict(
    picture="<|vision_start|><|image_pad|><|vision_end|>",
    image="<|image_pad|>",
    pixels=lambda: hf.Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 3136}),
    tokens=("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)

EYES: dict[str, Eyes] = {
    "llava": Eyes(
        "<image>", "<image>", "LlavaProcessor", lambda: hf.CLIPImageProcessorPil(**_CLIP),
        {**_PATCHES, "num_additional_image_tokens": 1}, ("<image>",),
    ),
    "llava_next": Eyes(
        "<image>", "<image>", "LlavaNextProcessor",
        lambda: hf.LlavaNextImageProcessorPil(**_CLIP, image_grid_pinpoints=[[28, 28]]),
        {**_PATCHES, "num_additional_image_tokens": 1}, ("<image>",),
    ),
    "llava_onevision": Eyes(
        "<image>", "<image>", "LlavaOnevisionProcessor",
        lambda: hf.LlavaOnevisionImageProcessorPil(
            size=_SQUARE, image_grid_pinpoints=[[28, 28]]
        ),
        {"num_image_tokens": 4, "vision_feature_select_strategy": "full"},
        ("<image>", "<video>"),
    ),
    "gemma3": Eyes(
        "<start_of_image>", "<image_soft_token>", "Gemma3Processor",
        lambda: hf.Gemma3ImageProcessorPil(size=_SQUARE), {"image_seq_length": 4},
        ("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        {
            "image_token": "<image_soft_token>", "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
    ),
    "qwen2_vl": Eyes(processor="Qwen2VLProcessor", **_QWEN),
    "qwen2_5_vl": Eyes(processor="Qwen2_5_VLProcessor", **_QWEN),
    "qwen3_vl": Eyes(processor="Qwen3VLProcessor", **_QWEN),
    "mllama": Eyes(
        "<|image|>", "<|image|>", "MllamaProcessor",
        lambda: hf.MllamaImageProcessorPil(size=_SQUARE, max_image_tiles=1), {},
        ("<|image|>", "<|begin|>", "<|python_tag|>"),
    ),
    "idefics3": Eyes(
        "<image>", "<image>", "Idefics3Processor",
        lambda: hf.Idefics3ImageProcessorPil(
            size={"longest_edge": 28}, max_image_size={"longest_edge": 28}, do_image_splitting=False
        ),
        {"image_seq_len": 1},
        ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"),
    ),
    "internvl": Eyes(
        "<IMG_CONTEXT>", "<IMG_CONTEXT>", "InternVLProcessor",
        lambda: hf.GotOcr2ImageProcessorPil(size=_SQUARE, crop_to_patches=False),
        {"image_seq_length": 1}, ("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        {
            "start_image_token": "<img>", "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
        },
    ),
}  # fmt: skip


def words(extra: Sequence[str] = (), **named: str) -> hf.PreTrainedTokenizerFast:
    """A byte-level tokenizer that covers every language, trained on three lines."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [*SPECIAL, *extra]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=300 + len(special),
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        bos_token="<|begin|>" if "<|begin|>" in extra else None,
        additional_special_tokens=list(special[2:]),
        extra_special_tokens=named,
    )


def _ids(tokenizer: hf.PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }


def save_tiny(model_type: str, folder: Path, template: str | None = TEMPLATE) -> None:
    """Write a tiny model of one family, with all its files, to `folder`."""
    with quiet():
        written = {**TEXT_CONFIGS, **MOE_CONFIGS}
        if model_type in written:
            tokenizer = words()
            if template is not None:
                tokenizer.chat_template = template
            build(written[model_type](_ids(tokenizer))).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            return
        eyes = EYES[model_type]
        tokenizer = words(eyes.tokens, **eyes.named)
        ids = {name: tokenizer.convert_tokens_to_ids(name) for name in eyes.tokens}
        tokens = {
            "image_token_id": ids[eyes.image],
            "video_token_id": ids.get("<|video_pad|>", ids.get("<video>", 0)),
            "vision_start_token_id": ids.get("<|vision_start|>", ids.get("<start_of_image>", 0)),
            "vision_end_token_id": ids.get("<|vision_end|>", ids.get("<end_of_image>", 0)),
        }
        build(SEEING_CONFIGS[model_type](_ids(tokenizer), tokens)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        eyes.pixels().save_pretrained(folder)
        if template is not None:
            text = template.replace("PICTURE", eyes.picture)
            (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
        settings = {"processor_class": eyes.processor, **eyes.settings}
        (folder / "processor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def tiny_loaded(model_type: str, folder: Path, **spec: Any) -> LoadedModel:
    """A tiny model of one family, saved to `folder` and loaded from there as a user would."""
    if not (folder / "config.json").exists():
        save_tiny(model_type, folder)
    return load(ModelSpec(str(folder), device="cpu", **spec))


def example(number: int, prompt: str, image: str | None = None, language: str = "en") -> Example:
    """A benign request with the id `e<number>`."""
    return Example(
        id=f"e{number}",
        language=language,
        modality="text" if image is None else "text_dominant",
        harm="benign",
        prompt=prompt,
        split="test",
        group=f"g{number}",
        image=image,
    )


def draw(path: Path, colour: tuple[int, int, int] = (200, 30, 10)) -> str:
    """Write a small picture with something in it, and give its path."""
    picture = Image.new("RGB", (28, 28), colour)
    picture.paste((255, 255, 255), (4, 4, 12, 20))
    picture.save(path)
    return str(path)

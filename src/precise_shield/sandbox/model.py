"""Builders for the tiny model: its tokenizer, its processor and the untrained network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from precise_shield.sandbox.lexicon import lexicon
from precise_shield.sandbox.pictures import SIDE

PATCH = 12
IMAGE_TOKENS = (SIDE // PATCH) ** 2
MAX_NEW_TOKENS = 40
PAD, END, IMAGE = "<|pad|>", "<|end|>", "<image>"
_SPECIAL = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>", IMAGE)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A turn is `<|role|>`, text, `<|end|>`; the roles are system, user and assistant."""


@dataclass(frozen=True)
class Size:
    """The measures of a network."""

    layers: int = 8
    width: int = 128
    heads: int = 4
    neurons: int = 512
    """Feed-forward neurons a decoder layer."""

    vision_layers: int = 4
    """One more than is read: LLaVA takes the second-to-last layer's output."""

    vision_width: int = 96
    vision_heads: int = 4


def build_tokenizer(languages: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE made from the lexicons, in which most words are one token.

    Any Unicode text can be tokenized: what is in no lexicon falls apart into bytes.
    """
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        min_frequency=1,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_fragments(languages), trainer)
    make: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = make(
        tokenizer_object=raw,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[t for t in _SPECIAL if t not in (PAD, END)],
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=512,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    return tokenizer


def _fragments(languages: Sequence[str]) -> Iterator[str]:
    """Words and the stretches of templates between slots, so that no token spans two of them."""
    for language in languages:
        words = lexicon(language)
        spaced = words.script not in ("HAN", "HIRAGANA")
        for sentence in words.sentences():
            yield from (part for part in re.split(r"\{\w+\}", sentence) if part)
        for word in words.words():
            yield word
            if spaced:
                yield " " + word


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The processor that goes with `build_tokenizer`: it needs Pillow, not torchvision."""
    side = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessorPil(
        size=side,
        crop_size=side,
        do_resize=True,
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
    )
    make: Any = LlavaProcessor
    processor: LlavaProcessor = make(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
    return processor


def build_model(
    tokenizer: PreTrainedTokenizerFast, size: Size, seed: int
) -> LlavaForConditionalGeneration:
    """The untrained network, in float32, with weights drawn from `seed`."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    end, pad, image = (vocabulary[token] for token in (END, PAD, IMAGE))
    vision = CLIPVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=2 * size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.neurons,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    greedy: Any = GenerationConfig
    model.generation_config = greedy(
        do_sample=False, max_new_tokens=MAX_NEW_TOKENS, eos_token_id=end, pad_token_id=pad
    )
    return model

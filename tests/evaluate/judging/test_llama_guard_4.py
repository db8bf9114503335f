"""Llama Guard 4's own architecture, random weights; its image processor needs torchvision."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import transformers as hf
from PIL import Image

import tiny_folders
from data.making import example
from precise_shield.evaluate.judging.formats import FORMATS
from precise_shield.evaluate.judging.local import LocalModel
from precise_shield.models.loading.spec import ModelSpec

TOKENS = (
    "<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>",
    "<|tile_x_separator|>", "<|tile_y_separator|>",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A dense Llama 4 with a vision tower, its tokenizer, template and processor's settings."""
    words = tiny_folders.words(TOKENS)
    at = dict(zip(TOKENS, words.convert_tokens_to_ids(list(TOKENS)), strict=True))
    config = hf.Llama4Config(
        text_config=dict(
            hidden_size=16, intermediate_size=24, intermediate_size_mlp=24, num_hidden_layers=4,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=2048,
            moe_layers=[], num_local_experts=1, attention_chunk_size=512,
            **tiny_folders._ids(words),
        ),
        vision_config=dict(
            hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            image_size=28, patch_size=14, vision_output_dim=16, projector_input_dim=16,
            projector_output_dim=16,
        ),
        image_token_index=at["<|patch|>"], boi_token_index=at["<|image_start|>"],
        eoi_token_index=at["<|image_end|>"],
    )  # fmt: skip
    torch.manual_seed(0)
    hf.Llama4ForConditionalGeneration(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    template = tiny_folders.TEMPLATE.replace("PICTURE", "<|image|>")
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    pixels = {"image_processor_type": "Llama4ImageProcessorFast", "max_patches": 4,
              "size": {"height": 28, "width": 28}}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Llama4Processor"}')
    return tmp_path


def test_words_and_tiled_pictures_get_what_the_processor_and_generate_answer(folder):
    pytest.importorskip("torchvision", reason="Llama 4's image processor has no other backend")
    how, rows = FORMATS["llama_guard_4"], [example(number) for number in range(2)]
    asked = [how.ask(row, "An answer.")[0] for row in rows]
    for name, size in (("a", (40, 30)), ("b", (30, 60))):
        Image.new("RGB", size, "red" if name == "a" else "blue").save(folder / f"{name}.png")
        asked.append(replace(asked[0], image=str(folder / f"{name}.png")))
    local = LocalModel(ModelSpec(str(folder), dtype="float32", device="cpu"), 4)
    replies = {}
    local.ask(asked, how, replies.__setitem__)
    assert len({replies[0], replies[2], replies[3]}) == 3  # the pictures were looked at
    loaded, tiles = local._loaded(plain=False), []
    for number, question in enumerate(asked):
        turns = [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in question.turns
        ]
        if question.image:
            turns[0]["content"].insert(0, {"type": "image"})
        text = loaded.tokenizer.apply_chat_template(
            turns, chat_template=loaded.template, tokenize=False
        )
        shown = Image.open(question.image) if question.image else None
        inputs = loaded.processor(text=text, images=shown, return_tensors="pt").to(torch.float32)
        tiles.append(len(inputs.get("pixel_values", ())))
        out = loaded.model.generate(
            **inputs, max_new_tokens=how.tokens, do_sample=False, eos_token_id=list(loaded.stop_ids)
        )
        new = out[0, inputs["input_ids"].shape[1] :]
        assert replies[number] == loaded.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert tiles[2] != tiles[3] > 1  # one batch held pictures of several shapes

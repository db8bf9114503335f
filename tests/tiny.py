"""Random-weight models small enough to build in every test: no hub, no download, no cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers as hf
from torch import Tensor
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from precise_shield.models.loading.model import LoadedModel

IMAGE = 63
"""Token of a picture's piece in the bare models; ids from 56 up stand for control tokens."""

TEXT: dict[str, Any] = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
    num_key_value_heads=1, head_dim=8, max_position_embeddings=512,
)  # fmt: skip
EYES: dict[str, Any] = dict(
    hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
    image_size=28, patch_size=14,
)  # fmt: skip
_BLOCKS: dict[str, Any] = dict(
    depth=2, hidden_size=16, intermediate_size=20, num_heads=2, out_hidden_size=16,
    patch_size=14, spatial_merge_size=2, temporal_patch_size=2,
)  # fmt: skip
IDS: dict[str, Any] = dict(vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
_TOKENS = dict(image_token_id=IMAGE, video_token_id=62)
_VISION_TOKENS = dict(**_TOKENS, vision_start_token_id=60, vision_end_token_id=61)


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, **more}


def _text_config(kind: type, ids: dict[str, Any]) -> Any:
    return kind(**TEXT, **ids)


def _gpt2(ids: dict[str, Any]) -> Any:
    return hf.GPT2Config(n_embd=16, n_inner=24, n_layer=3, n_head=2, n_positions=512, **ids)


def _llava(ids: dict[str, Any], tokens: dict[str, int]) -> Any:
    text, eyes = hf.LlamaConfig(**TEXT, **ids), hf.CLIPVisionConfig(**EYES, projection_dim=16)
    return hf.LlavaConfig(
        text_config=text, vision_config=eyes, image_token_id=tokens["image_token_id"]
    )


def _llava_next(ids: dict[str, Any], tokens: dict[str, int]) -> Any:
    text, eyes = hf.LlamaConfig(**TEXT, **ids), hf.CLIPVisionConfig(**EYES, projection_dim=16)
    return hf.LlavaNextConfig(
        text_config=text,
        vision_config=eyes,
        image_token_id=tokens["image_token_id"],
        image_grid_pinpoints=[[28, 28]],
    )


def _llava_onevision(ids: dict[str, Any], tokens: dict[str, int]) -> Any:
    return hf.LlavaOnevisionConfig(
        text_config=hf.Qwen2Config(**TEXT, **ids),
        vision_config=hf.SiglipVisionConfig(**EYES),
        image_token_id=tokens["image_token_id"],
        video_token_id=tokens["video_token_id"],
        image_grid_pinpoints=[[28, 28]],
    )


def _gemma3(ids: dict[str, Any], tokens: dict[str, int]) -> Any:
    return hf.Gemma3Config(
        text_config=hf.Gemma3TextConfig(**TEXT, **ids),
        vision_config=hf.SiglipVisionConfig(**EYES),
        image_token_id=tokens["image_token_id"],
        boi_token_id=tokens["vision_start_token_id"],
        eoi_token_id=tokens["vision_end_token_id"],
        mm_tokens_per_image=4,
    )


def _paligemma(ids: dict[str, Any], tokens: dict[str, int]) -> Any:
    return hf.PaliGemmaConfig(
        text_config=hf.GemmaConfig(**TEXT, **ids),
        vision_config=hf.SiglipVisionConfig(**EYES),
        image_token_id=tokens["image_token_id"],
        projection_dim=16,
    )


def _qwen2_vl(ids: dict[str, Any], tokens: dict[str, int]) -> Any:
    eyes = {**_BLOCKS, "embed_dim": 16, "mlp_ratio": 2}
    text = dict(**TEXT, **ids, rope_parameters=_rope(mrope_section=[2, 1, 1]))
    return hf.Qwen2VLConfig(text_config=text, vision_config=eyes, **tokens)


def _qwen2_5_vl(ids: dict[str, Any], tokens: dict[str, int]) -> Any:
    eyes = {**_BLOCKS, "window_size": 56, "fullatt_block_indexes": [1]}
    text = dict(**TEXT, **ids, rope_parameters=_rope(mrope_section=[2, 1, 1]))
    return hf.Qwen2_5_VLConfig(text_config=text, vision_config=eyes, **tokens)


def _qwen3_vl(ids: dict[str, Any], tokens: dict[str, int]) -> Any:
    eyes = {**_BLOCKS, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    rope = _rope(mrope_section=[2, 1, 1], mrope_interleaved=True)
    text = dict(**TEXT, **ids, rope_parameters=rope)
    return hf.Qwen3VLConfig(text_config=text, vision_config=eyes, **tokens)


def _mllama(ids: dict[str, Any], tokens: dict[str, int]) -> Any:
    text = dict(**TEXT, **ids, cross_attention_layers=[1], rope_parameters=_rope())
    eyes = {**EYES, "attention_heads": 2, "num_global_layers": 1, "max_num_tiles": 1}
    eyes |= {"intermediate_layers_indices": [0], "vision_output_dim": 32}
    return hf.MllamaConfig(
        text_config=text,
        vision_config={**eyes, "supported_aspect_ratios": [[1, 1]]},
        image_token_index=tokens["image_token_id"],
    )


def _idefics3(kind: type, ids: dict[str, Any], tokens: dict[str, int]) -> Any:
    text = hf.LlamaConfig(**TEXT, **ids)
    return kind(
        text_config=text,
        vision_config=EYES,
        image_token_id=tokens["image_token_id"],
        scale_factor=2,
        pad_token_id=ids["pad_token_id"],
    )


def _internvl(ids: dict[str, Any], tokens: dict[str, int]) -> Any:
    return hf.InternVLConfig(
        text_config=hf.Qwen2Config(**TEXT, **ids),
        vision_config=hf.InternVLVisionConfig(
            **{**EYES, "image_size": [28, 28], "patch_size": [14, 14]}
        ),
        image_token_id=tokens["image_token_id"],
        downsample_ratio=0.5,
    )


TEXT_CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "llama": lambda ids: _text_config(hf.LlamaConfig, ids),
    "mistral": lambda ids: _text_config(hf.MistralConfig, ids),
    "qwen2": lambda ids: _text_config(hf.Qwen2Config, ids),
    "qwen3": lambda ids: _text_config(hf.Qwen3Config, ids),
    "gemma2": lambda ids: _text_config(hf.Gemma2Config, ids),
    "gemma3_text": lambda ids: _text_config(hf.Gemma3TextConfig, ids),
    "olmo2": lambda ids: _text_config(hf.Olmo2Config, ids),
    "phi3": lambda ids: _text_config(hf.Phi3Config, ids),
    "gpt2": _gpt2,
}
_EXPERTS: dict[str, Any] = dict(num_experts_per_tok=2, moe_intermediate_size=24)


def _qwen3_moe(ids: dict[str, Any]) -> Any:
    return hf.Qwen3MoeConfig(**TEXT, **ids, **_EXPERTS, num_experts=4, mlp_only_layers=[1])


def _qwen2_moe(ids: dict[str, Any]) -> Any:
    return hf.Qwen2MoeConfig(
        **TEXT, **ids, **_EXPERTS, num_experts=4, shared_expert_intermediate_size=20
    )


def _local(kind: type, ids: dict[str, Any]) -> Any:
    few = dict(num_local_experts=4, num_experts_per_tok=2)
    return kind(**TEXT, **ids, **few, rope_parameters=_rope())


MOE_CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "qwen3_moe": _qwen3_moe,
    "qwen2_moe": _qwen2_moe,
    "mixtral": lambda ids: _local(hf.MixtralConfig, ids),
    "gpt_oss": lambda ids: _local(hf.GptOssConfig, ids),
}
"""Families with routed experts: four a layer, two a token."""

SEEING_CONFIGS: dict[str, Callable[[dict[str, Any], dict[str, int]], Any]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "mllama": _mllama,
    "idefics3": lambda ids, tokens: _idefics3(hf.Idefics3Config, ids, tokens),
    "smolvlm": lambda ids, tokens: _idefics3(hf.SmolVLMConfig, ids, tokens),
    "internvl": _internvl,
}


_SHUT = (
    "cross_attn_attn_gate",
    "cross_attn_mlp_gate",
    "mm_input_projection_weight",
    "_embedding.gate",
)
"""Weights that are zero at birth, so that no picture would reach the text."""


def build(config: Any, seed: int = 0) -> PreTrainedModel:
    """A model with random weights in eval mode, the same for the same seed."""
    torch.manual_seed(seed)
    sees = config.model_type in SEEING_CONFIGS
    kind: Any = hf.AutoModelForImageTextToText if sees else hf.AutoModelForCausalLM
    model: PreTrainedModel = kind.from_config(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith(_SHUT):
            weight.data.normal_()
        elif weight.ndim > 1:
            weight.data *= 5
    return model


def _builder(model_type: str) -> Callable[[], PreTrainedModel]:
    written = {**TEXT_CONFIGS, **MOE_CONFIGS}
    if model_type in written:
        return lambda: build(written[model_type](IDS))
    return lambda: build(SEEING_CONFIGS[model_type](IDS, _VISION_TOKENS))


BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    model_type: _builder(model_type)
    for model_type in (*TEXT_CONFIGS, *MOE_CONFIGS, *SEEING_CONFIGS)
}


def tiny(model_type: str) -> PreTrainedModel:
    """A tiny model of one family, with three text layers of width 24."""
    return BUILDERS[model_type]()


_PIECES = {"llava_next": 10, "llava_onevision": 10, "internvl": 1, "idefics3": 1, "smolvlm": 1}
"""Tokens a 28 x 28 picture takes where that is not four."""


def inputs(model: PreTrainedModel, batch: int = 2, length: int = 6) -> dict[str, Tensor]:
    """Fixed token ids, and for a model with eyes one picture a prompt."""
    kind = model.config.model_type
    ids = torch.arange(batch * length).remainder(50).add(3).view(batch, length)
    if kind not in SEEING_CONFIGS:
        return {"input_ids": ids}
    pieces = torch.full((batch, _PIECES.get(kind, 4)), IMAGE)
    ids = torch.cat([torch.full((batch, 1), 60), pieces, torch.full((batch, 1), 61), ids], 1)
    pixels = torch.linspace(-1, 1, batch * 3 * 28 * 28).view(batch, 3, 28, 28)
    out = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind.startswith("qwen"):
        patches = torch.linspace(-1, 1, batch * 16 * 3 * 2 * 14 * 14).view(batch * 16, -1)
        grid = torch.tensor([[1, 4, 4]] * batch)
        return out | {
            "pixel_values": patches,
            "image_grid_thw": grid,
            "mm_token_type_ids": (ids == IMAGE).long(),
        }
    if kind in ("llava_next", "llava_onevision"):
        sizes = torch.tensor([[28, 28]] * batch)
        return out | {"pixel_values": torch.stack([pixels, pixels], 1), "image_sizes": sizes}
    if kind in ("idefics3", "smolvlm"):
        return out | {"pixel_values": pixels.unsqueeze(1)}
    if kind == "mllama":
        return out | {
            "pixel_values": pixels.view(batch, 1, 1, 3, 28, 28),
            "aspect_ratio_ids": torch.ones(batch, 1, dtype=torch.long),
            "aspect_ratio_mask": torch.ones(batch, 1, 1, dtype=torch.long),
            "cross_attention_mask": torch.ones(batch, ids.shape[1], 1, 1, dtype=torch.long),
        }
    return out | {"pixel_values": pixels}


def tiny_loaded(model_type: str, folder: Path, **spec: Any) -> LoadedModel:
    """See `tiny_folders.tiny_loaded`: a tiny model with tokenizer and processor, loaded."""
    import tiny_folders

    return tiny_folders.tiny_loaded(model_type, folder, **spec)

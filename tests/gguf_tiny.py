"""Write a tiny Q8_0 model as a GGUF file, tokenizer and chat template included."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers as hf

from tiny_folders import TEMPLATE, words

_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _gguf_name(name: str) -> str:
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_NAMES[part]}.{kind}"


def _llama_cpp_order(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp rotates neighbouring pairs, the transformers library halves: rows are permuted."""
    out, width = weight.shape
    return weight.view(heads, 2, out // heads // 2, width).swapaxes(1, 2).reshape(out, width)


def write_gguf(path: Path, arch: str) -> hf.PreTrainedModel:
    """Write a llama or qwen2 model, and give it with the weights as they are after Q8_0."""
    tokenizer = words()
    kind = {"llama": hf.LlamaConfig, "qwen2": hf.Qwen2Config}[arch]
    config = kind(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
        tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    torch.manual_seed(3)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    out = gguf.GGUFWriter(path, arch)
    out.add_context_length(128)
    out.add_embedding_length(32)
    out.add_block_count(2)
    out.add_feed_forward_length(64)
    out.add_head_count(2)
    out.add_head_count_kv(1)
    out.add_rope_freq_base(10000.0)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_vocab_size(len(tokenizer))
    _add_words(out, tokenizer)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            blocks = gguf.quantize(weight.detach().numpy(), gguf.GGMLQuantizationType.Q8_0)
            weight.data = torch.from_numpy(gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0))
        stored = weight.detach()
        for part, heads in (("q_proj.weight", 2), ("k_proj.weight", 1)):
            if arch == "llama" and name.endswith(part):
                stored = _llama_cpp_order(stored, heads)
        if weight.ndim == 2:
            blocks = gguf.quantize(stored.numpy(), gguf.GGMLQuantizationType.Q8_0)
            out.add_tensor(_gguf_name(name), blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            out.add_tensor(_gguf_name(name), stored.numpy().astype(np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return model


def _add_words(out: gguf.GGUFWriter, tokenizer: hf.PreTrainedTokenizerFast) -> None:
    raw = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda row: row[1])
    special = {row.content for row in tokenizer.added_tokens_decoder.values()}
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("default")
    out.add_token_list([token for token, _ in vocab])
    out.add_token_types([3 if token in special else 1 for token, _ in vocab])
    merges = [row if isinstance(row, str) else " ".join(row) for row in raw["merges"]]
    out.add_token_merges(merges)
    out.add_eos_token_id(tokenizer.eos_token_id)
    out.add_bos_token_id(tokenizer.eos_token_id)
    out.add_pad_token_id(tokenizer.pad_token_id)
    out.add_chat_template(TEMPLATE)

"""Rounding to few bits is what it says, and leaves no trace."""

from __future__ import annotations

import pytest
import torch

from precise_shield.core.errors import ConfigError
from precise_shield.intervene.quantise import quantised, rounded
from tiny import tiny

KEPT = (
    "norm",
    "sinks",
    "ln_",
    "embed",
    "wte",
    "wpe",
    "bias",
    "lm_head",
    "router",
    "mlp.gate.weight",
)
"""What a quantised model keeps: everything else multiplies activations, whatever its name."""


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_rounded_weight_takes_few_values_and_is_the_nearest_of_them(bits):
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    back = rounded(weight, bits, group=4)
    for row, new in zip(weight.reshape(-1, 4), back.reshape(-1, 4), strict=True):
        scale = row.abs().max() / (2 ** (bits - 1) - 1)
        levels = torch.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1)) * scale
        nearest = levels[(row[:, None] - levels).abs().argmin(1)]
        torch.testing.assert_close(new, nearest)
    assert not torch.equal(weight, back)


def test_zeros_stay_zeros_and_other_widths_share_a_scale_a_row():
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, -7.0, 3.5]])
    assert rounded(weight, 4).tolist() == [[0, 0, 0], [1, -7, 4]]
    with pytest.raises(ConfigError, match="16 bits"):
        rounded(weight, 16)


@pytest.mark.parametrize("family", ["llama", "llava", "phi3", "gpt2", "qwen2_moe", "gpt_oss"])
def test_the_model_is_another_inside_and_bit_for_bit_the_same_after(family):
    model = tiny(family)
    before = {name: value.clone() for name, value in model.named_parameters()}
    head = model.get_output_embeddings().weight
    with pytest.raises(RuntimeError, match="stop"):
        with quantised(model, 4):
            moved = [n for n, v in model.named_parameters() if not torch.equal(v, before[n])]
            same = before.keys() - set(moved)
            assert all(any(word in name for word in KEPT) for name in same)
            assert not any(word in name for word in KEPT for name in moved)
            assert torch.equal(head, model.get_output_embeddings().weight)
            raise RuntimeError("stop")
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


@pytest.mark.parametrize(("family", "inputs"), [("gpt_oss", 1), ("qwen2_moe", 2), ("gpt2", 0)])
def test_a_scale_is_shared_along_the_inputs_of_each_family(family, inputs):
    """With a group as wide as a row, every output row has at most 2^bits - 1 values."""
    model = tiny(family)
    name = "experts.down_proj" if inputs else "c_proj.weight"
    with quantised(model, 2):
        for key, weight in model.named_parameters():
            if key.endswith(name):
                rows = weight.detach().movedim(inputs, -1).flatten(0, -2)
                assert max(len(row.unique()) for row in rows) <= 3
                crossed = rows.T if inputs == 0 else weight.detach().movedim(3 - inputs, -1)
                assert max(len(row.unique()) for row in crossed.flatten(0, -2)) > 3

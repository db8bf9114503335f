"""Rounding to few bits is what it says, and leaves no trace."""

from __future__ import annotations

import pytest
import torch

from precise_shield.core.errors import ConfigError
from precise_shield.intervene.quantise import quantised, rounded
from tiny import tiny


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


@pytest.mark.parametrize("family", ["llama", "llava", "qwen3"])
def test_the_model_is_another_inside_and_bit_for_bit_the_same_after(family):
    model = tiny(family)
    before = {name: value.clone() for name, value in model.named_parameters()}
    head = model.get_output_embeddings().weight
    with pytest.raises(RuntimeError, match="stop"):
        with quantised(model, 4):
            moved = [n for n, v in model.named_parameters() if not torch.equal(v, before[n])]
            assert any("down_proj" in name for name in moved)
            assert any("q_proj" in name for name in moved)
            assert not any("norm" in name or "embed_tokens" in name for name in moved)
            assert torch.equal(head, model.get_output_embeddings().weight)
            raise RuntimeError("stop")
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())

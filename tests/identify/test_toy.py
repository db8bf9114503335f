"""Every score on a two-layer network small enough for pencil and paper.

Hidden states are pairs; attention writes nothing; a norm divides by the root mean square r. The
prompt is one token, (1, 1), with r = 1. Layer 0: unit 0 has activation relu(1) * 3 = 3 and
writes (0, 2), so (0, 6); unit 1 has relu(1) * -2 = -2 and writes (-3, 0), so (6, 0). That
leaves (7, 7), r = 7. Layer 1 reads (1, 1): unit 0 has x * y = 1 and writes (-6, 0), unit 1 is
dead. That leaves (1, 7), r = 5; the last hidden state is (0.2, 1.4). The logits are 0 and
5 * 0.2 = 1, and the answer is token 1: its probability is s = sigmoid(1).
"""

import pytest
import torch
import transformers as hf

from precise_shield.core.records import Cell
from precise_shield.core.sites import Site
from precise_shield.identify.collect import Batch, collect
from precise_shield.identify.scores import SCORES
from precise_shield.models.architecture.bind import bind

CELL = Cell("en", "text", "harmful")
LAYERS = Site("text", 0), Site("text", 1)
MISSED = 1 - 1 / (1 + torch.e ** torch.tensor(-1.0).item())
"""1 - s: the slope of log s by its logit."""


@pytest.fixture
def bound():
    config = hf.LlamaConfig(
        hidden_size=2, intermediate_size=2, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, vocab_size=2, rms_norm_eps=0.0, hidden_act="relu",
        tie_word_embeddings=False, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config).eval()
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        weight.data.fill_(1.0 if "norm" in name or "embed" in name else 0.0)
    given = {
        "lm_head.weight": [[0, 0], [5, 0]],
        "model.layers.0.mlp.gate_proj.weight": [[1, 0], [0, 1]],
        "model.layers.0.mlp.up_proj.weight": [[0, 3], [-2, 0]],
        "model.layers.0.mlp.down_proj.weight": [[0, -3], [2, 0]],
        "model.layers.1.mlp.gate_proj.weight": [[1, 0], [0, 1]],
        "model.layers.1.mlp.up_proj.weight": [[0, 1], [0, 0]],
        "model.layers.1.mlp.down_proj.weight": [[-6, 4], [0, 4]],
    }
    for name, rows in given.items():
        weights[name].data = torch.tensor(rows, dtype=torch.float32)
    return bind(model)


def scored(bound, name):
    """The score of both layers' units, the prompt's token being the position that counts."""
    score, at = SCORES[name], torch.tensor([[True, False]])
    batch = Batch(
        inputs={"input_ids": torch.tensor([[0, 1]])},
        cells=[CELL],
        folds=torch.tensor([3]),
        masks={"response_mean": at},
        labels=torch.tensor([[-100, 1]]),
    )
    stats = collect(bound, [CELL], [batch], quantity=score.quantity)
    values = []
    for site in LAYERS:
        arm = stats.at(site, CELL, "response_mean", score.quantity.name).pooled()
        values.append(score.compute(arm, arm, stats.norms[site]).tolist())
    return values


def test_the_toy_is_what_its_description_says(bound):
    out = bound.model(input_ids=torch.tensor([[0]]), output_hidden_states=True)
    torch.testing.assert_close(out.hidden_states[1][0, 0], torch.tensor([7.0, 7.0]))
    torch.testing.assert_close(out.hidden_states[2][0, 0], torch.tensor([0.2, 1.4]))
    torch.testing.assert_close(out.logits[0, 0], torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # activations 3, -2 and 1, 0; column norms 2, 3 and 6, 4 sqrt 2
        ("precise_shield", [[0.5, 0.5], [1.0, 0.0]]),
        ("one_anchor", [[0.5, 0.5], [1.0, 0.0]]),
        ("contrastive_difference", [[0.0, 0.0], [0.0, 0.0]]),
        ("deactivation_local", [[6.0, 6.0], [6.0, 0.0]]),
        # gate 1, up 3 or 2 or 1 or 0, column 2 * 3 or 3 * 2 or 6 * 1 or 8 * 0
        ("wanda", [[1 + 3 + 6, 1 + 2 + 6], [1 + 1 + 6, 1 + 0 + 0]]),
        # without unit 0: (7, 1), r = 5, layer 1 gives 1.4 * 0.2 = 0.28 and leaves (5.32, 1);
        # without unit 1: (1, 7) and (-0.68, 7); without layer 1's unit 0: (7, 7). From (1, 7):
        ("deactivation_residual", [[(4.32**2 + 6**2) ** 0.5, 1.68], [6.0, 0.0]]),
    ],
)  # fmt: skip
def test_scores_by_hand(bound, name, expected):
    for got, wanted in zip(scored(bound, name), expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_exact_deactivation_after_the_final_norm_by_hand(bound):
    """The same three ends divided by their r, and how far each is from (0.2, 1.4)."""

    def away(x, y):
        r = ((x * x + y * y) / 2) ** 0.5
        return ((x / r - 0.2) ** 2 + (y / r - 1.4) ** 2) ** 0.5

    first, second = scored(bound, "deactivation")
    assert first == pytest.approx([away(5.32, 1), away(-0.68, 7)], rel=1e-5)
    assert second == pytest.approx([away(7, 7), 0.0], rel=1e-5, abs=1e-6)
    assert away(7, 7) == pytest.approx(0.8**0.5)
    logits, _ = scored(bound, "deactivation_logits")
    assert logits[1] == pytest.approx(5 * (0.2 + 0.68 / ((0.68**2 + 49) / 2) ** 0.5), rel=1e-5)


def test_gradient_times_activation_by_hand(bound):
    """d logit / d (1, 7) = 5 (1/5 - 1/250, -7/250) = (0.98, -0.14); at (7, 7) the product x * y of
    layer 1 has no slope. Times what a unit writes: (0, 6), (6, 0) and (-6, 0).
    """
    first, second = scored(bound, "pathways")
    assert first == pytest.approx([-0.84 * MISSED, 5.88 * MISSED], rel=1e-5)
    assert second == pytest.approx([-5.88 * MISSED, 0.0], rel=1e-5, abs=1e-6)


def test_weight_times_gradient_by_hand(bound):
    """A unit's gate row, up row and column each carry its whole effect, for each has one weight
    that counts: three times the absolute gradient x activation.
    """
    first, second = scored(bound, "snip")
    assert first == pytest.approx([3 * 0.84 * MISSED, 3 * 5.88 * MISSED], rel=1e-5)
    assert second == pytest.approx([3 * 5.88 * MISSED, 0.0], rel=1e-5, abs=1e-6)


def test_every_registered_score_has_its_line_here_or_among_the_selection_tests(bound):
    for name in SCORES:
        if name != "effect_size":  # needs two examples an arm: tests/identify/test_select.py
            assert len(scored(bound, name)) == 2

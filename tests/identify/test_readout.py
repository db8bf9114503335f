"""What a neuron writes and what drives it, against a planted neuron and against plain sums."""

import pytest
import torch

import tiny
from precise_shield.core.records import Cell
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.identify.readout import Asked, Picked, drivers, strongest, written
from precise_shield.identify.stats import Place, Stats
from precise_shield.models.architecture.bind import bind
from precise_shield.models.passes.taps import tapped
from precise_shield.models.readings.lens import direct_logits, token_text

SITE = Site("text", 1)
FAMILIES = ["llama", "gemma2", "gpt2", "phi3", "qwen2_vl", "mllama", "idefics3"]


def planted(model_type, token):
    """A model whose neuron 4 of layer 1 writes what the head and the norm make `token` of."""
    model = tiny.tiny(model_type)
    bound = bind(model)
    head = model.get_output_embeddings().weight.detach()
    probe = torch.nn.functional.normalize(head[token], dim=0)
    site = max(bound.sites)  # Mllama passes over its cross-attention blocks
    spot = bound.sites[site]
    down = spot.writes.own
    with torch.no_grad():
        weight = down.weight if down.dim == 1 else down.weight.T
        weight[:, 4] = probe * 3
    return bound, site


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_planted_neuron_writes_its_token(model_type):
    bound, site = planted(model_type, 17)
    (tokens,) = written(bound, [Picked(site, 4, 1.0, 1)], 3)
    assert tokens[0][0] == 17
    assert tokens[0][1] > tokens[1][1] >= tokens[2][1]
    (against,) = written(bound, [Picked(site, 4, 1.0, -1)], 64)
    assert against[-1][0] == 17  # driven the other way it argues against the token most


def test_the_lens_is_the_norms_weight_and_the_head():
    """For Llama: W_U (g * v / rms(v)), by hand."""
    model = tiny.tiny("llama")
    bound = bind(model)
    weight = torch.rand(16) + 0.5
    vector = torch.randn(1, 16)
    named = dict(model.named_parameters())
    (name,) = [name for name in named if name.endswith("norm.weight") and "layers" not in name]
    with torch.no_grad():
        named[name].copy_(weight)
    unit = vector / vector.norm()
    by_hand = (unit / unit.pow(2).mean().sqrt() * weight) @ model.get_output_embeddings().weight.T
    torch.testing.assert_close(direct_logits(bound, vector), by_hand.detach(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(direct_logits(bound, 9 * vector), direct_logits(bound, vector))
    assert direct_logits(bound, torch.zeros(1, 16)).abs().max() == 0


def test_a_norms_bias_is_nobodys_writing():
    model = tiny.tiny("gpt2")
    bound, vector = bind(model), torch.randn(2, 16)
    before = direct_logits(bound, vector)
    named = dict(model.named_parameters())
    with torch.no_grad():
        named["transformer.ln_f.bias"].add_(5.0)
    torch.testing.assert_close(direct_logits(bound, vector), before, rtol=1e-3, atol=1e-3)


def stats_of(values):
    """One site of four units; `values[cell]` is the mean activation of each."""
    cells = tuple(sorted(values))
    found = Stats({SITE: torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64)}, cells)
    for i, cell in enumerate(cells):
        rows = torch.tensor([values[cell]] * 2, dtype=torch.float64)
        place = Place(SITE, "response_mean")
        found.fold_in(place, rows, torch.tensor([i, i]), torch.tensor([0, 1]))
    return found


def test_the_strongest_neuron_gains_most_share_from_harm():
    harmful, benign = (Cell("en", "text", harm) for harm in ("harmful", "benign"))
    stats = stats_of({harmful: [1.0, -3.0, 1.0, 4.0], benign: [1.0, 1.0, 1.0, 4.0]})
    chosen = NeuronSet.of({SITE: [0, 1, 2]})
    found = strongest(stats, chosen, "response_mean", 2)
    assert (found[0].unit, found[0].sign) == (1, -1)
    assert found[0].strength == pytest.approx(3 / 10 - 1 / 8)
    assert len(found) == 2
    assert 3 not in {one.unit for one in strongest(stats, chosen, "response_mean", 9)}


def test_drivers_are_the_prompts_with_the_largest_activation():
    bound = bind(tiny.tiny("llama"))
    ids = torch.arange(30).view(6, 5) + 3
    batches = [
        Asked(
            lambda i=i: bound.backbone(input_ids=ids[i : i + 2], use_cache=False),
            torch.tensor([4, 2]),
            [f"p{i}", f"p{i + 1}"],
        )
        for i in (0, 2, 4)
    ]
    picked = [Picked(SITE, 4, 1.0, 1), Picked(SITE, 4, 1.0, -1), Picked(Site("text", 0), 9, 1.0, 1)]
    found = drivers(bound, picked, batches, 3)
    seen = {}

    def fn(site, acts):
        if site == SITE:
            seen["acts"] = acts[torch.arange(6), torch.tensor([4, 2] * 3), 4]

    with torch.no_grad(), tapped(bound, fn):
        bound.backbone(input_ids=ids, use_cache=False)
    order = seen["acts"].argsort(descending=True).tolist()
    assert [name for name, _ in found[0]] == [f"p{i}" for i in order[:3]]
    assert [name for name, _ in found[1]] == [f"p{i}" for i in order[::-1][:3]]
    assert found[0][0][1] == pytest.approx(float(seen["acts"].max()), rel=1e-4)
    assert found[1][0][1] == pytest.approx(float(seen["acts"].min()), rel=1e-4)


def test_a_token_without_text_is_its_number(tmp_path):
    loaded = tiny.tiny_loaded("llama", tmp_path)
    known = loaded.tokenizer("cat", add_special_tokens=False)["input_ids"]
    assert "".join(token_text(loaded, token) for token in known) == "cat"
    assert token_text(loaded, len(loaded.tokenizer) + 5).startswith("[")

"""A base of 4 or 8 bits: read as what it stands for, trained beside, and never written."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from align_tiny import batch, build, chosen
from torch import nn

import tiny_folders
from precise_shield.align.adapter import adapter_of
from precise_shield.align.delta import DirectUnits, LoraRows, tuning
from precise_shield.align.export import write_model
from precise_shield.align.fit import FitSpec, fit
from precise_shield.align.receipt import make_receipt, seal
from precise_shield.align.slices import same_bits
from precise_shield.align.sparse import applied, apply, undo
from precise_shield.core.errors import LoadingError, ReceiptError, UnsupportedModelError
from precise_shield.intervene.quantise import quantised
from precise_shield.models.architecture.bind import bind
from precise_shield.models.holding import packed as few
from precise_shield.models.loading.model import load
from precise_shield.models.loading.spec import ModelSpec
from precise_shield.models.loading.weights import checked_fingerprint
from precise_shield.models.passes.taps import lasting

BOTH = [LoraRows(rank=2, dropout=0.0), DirectUnits()]
LIBRARY = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes (extra `quantised`) is not installed"
)


class Nibbles(nn.Linear):
    """Two codes of 4 bits in a byte, packed to `[n / 2, 1]` as bitsandbytes packs them."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None)
        top = plain.weight.detach().abs().max() / 7
        codes = (plain.weight.detach() / top).round().add(8).to(torch.uint8).flatten()
        self.scale, self.bias = top, plain.bias
        self.weight = nn.Parameter((codes[0::2] * 16 + codes[1::2])[:, None], requires_grad=False)

    def values(self) -> torch.Tensor:
        bytes_of = self.weight.flatten()
        codes = torch.stack([bytes_of // 16, bytes_of % 16], 1).flatten()
        return (codes.float() - 8).mul(self.scale).view(self.out_features, self.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.values(), self.bias)


def pair(model_type="llama"):
    """A model of packed projections, and a plain one of the values that these stand for."""
    held, plain = build(model_type), build(model_type)
    for name, module in list(held.model.named_modules()):
        if type(module) is nn.Linear and "lm_head" not in name:
            own = Nibbles(module)
            known = few.hold(own, "4bit", torch.float32, own.values)
            lasting({own: known.path})
            parent, _, last = name.rpartition(".")
            setattr(held.model.get_submodule(parent), last, own)
            plain.model.get_submodule(name).weight.data = own.values()
    return bind(held.model), plain


def storage(bound):
    return {name: value.clone() for name, value in bound.model.state_dict().items()}


def same(one, other):
    return all(same_bits(value, other[name]) for name, value in one.items())


def trained(bound, form):
    before = seal(bound, chosen(bound), form)
    with tuning(bound, chosen(bound), form, seed=0) as deltas:
        fit(deltas, lambda _: [batch(bound)], FitSpec(epochs=3, learning_rate=0.05))
    receipt = make_receipt(
        bound, before, deltas.sparse(), form, deltas.counts(),
        condition="a", steps=3, learning_rate=0.05, final_loss=None,
    )  # fmt: skip
    return deltas.sparse(), receipt


def logits(bound):
    with torch.no_grad():
        return bound.model(**batch(bound).inputs).logits


def test_packed_weights_are_bound_and_read_as_what_they_stand_for():
    held, plain = pair()
    one = next(iter(held.sites.values())).reader.weight
    assert one.shape[1] == 1  # packed: its shape says nothing of inputs and outputs
    assert (
        few.count(held.model)
        == few.count(plain.model)
        > sum(p.numel() for p in held.model.parameters())
    )
    for site, spot in plain.sites.items():
        assert held.sites[site].width == spot.width
        assert torch.equal(held.sites[site].column_norms(), spot.column_norms())
    assert checked_fingerprint(held.model) != checked_fingerprint(plain.model)


@pytest.mark.parametrize("form", BOTH, ids=["lora", "direct"])
def test_training_beside_packed_weights_equals_training_their_values(form):
    """Delta, receipt and changed model; and not a bit of the storage moves."""
    held, plain = pair()
    stored, base = storage(held), logits(held)
    torch.testing.assert_close(base, logits(plain))
    ours, receipt = trained(held, form)
    theirs, straight = trained(plain, form)
    assert (receipt.quantised, straight.quantised) == ("4bit", None)
    assert receipt.changed_weights == straight.changed_weights > 0
    for mine, other in zip(ours.changes, theirs.changes, strict=True):
        assert torch.equal(mine.old, other.old)
        torch.testing.assert_close(mine.new, other.new, rtol=1e-3, atol=1e-5)
    changed = logits(held)
    torch.testing.assert_close(changed, logits(plain), rtol=1e-3, atol=1e-4)
    assert (changed - base).abs().max() > 1e-2
    assert same(stored, storage(held))
    with pytest.raises(ReceiptError, match="not the old values"):
        apply(held, ours)
    undo(held, ours)
    assert torch.equal(logits(held), base)
    with applied(held, ours):
        assert torch.equal(logits(held), changed)
    assert torch.equal(logits(held), base)
    assert adapter_of(held, ours, None).config("b", None)["target_modules"]


def test_what_would_write_a_quantised_model_says_what_to_do(tmp_path):
    held, _ = pair()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "tokenizer.json").touch()
    with pytest.raises(UnsupportedModelError, match=r"never written.*--peft.*not measured"):
        write_model(held, tmp_path / "out", source=tmp_path / "base", texts={})
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnsupportedModelError, match="quantised already"):
        with quantised(held.model, 4):
            pass


def test_a_delta_of_a_quantised_base_does_not_fit_the_unquantised_one():
    held, _ = pair()
    with pytest.raises(ReceiptError, match="not the old values"):
        apply(build("llama"), trained(held, LoraRows(rank=2))[0])


@pytest.mark.parametrize(
    ("there", "more", "says"),
    [
        (False, {}, r"needs bitsandbytes and accelerate.*precise-shield\[quantised\]"),
        (True, {"device_map": "auto"}, "one device.*model.device_map"),
        (True, {"shard": True}, "model.shard"),
    ],
)
def test_loading_refuses_where_a_quantised_base_cannot_work(
    there, more, says, tmp_path, monkeypatch
):
    tiny_folders.save_tiny("llama", tmp_path / "model")
    monkeypatch.setattr(few, "find_spec", lambda name: name if there else None)
    monkeypatch.setattr("precise_shield.models.loading.model.check_sharing", lambda: None)
    with pytest.raises(LoadingError, match=says):
        load(ModelSpec(str(tmp_path / "model"), device="cpu", quantise="4bit", **more))


@LIBRARY
@pytest.mark.parametrize(("bits", "near"), [("4bit", 1e-4), ("8bit", 5e-2)])
def test_a_model_of_bitsandbytes_is_what_its_dequantised_values_are(bits, near, tmp_path):
    plain = tiny_folders.tiny_loaded("llama", tmp_path / "model")
    loaded = load(replace(plain.spec, quantise=bits))
    assert few.bits_of(loaded.model) == bits
    assert loaded.fingerprint != plain.fingerprint
    assert loaded.fingerprint == load(replace(plain.spec, quantise=bits)).fingerprint
    twin, held = bind(plain.model), bind(loaded.model)
    for name, weight in loaded.model.named_parameters():
        known = few.packed(weight)
        if known is not None:
            plain.model.get_parameter(name).data = known.base()
    base, stored = logits(held), storage(held)
    torch.testing.assert_close(base, logits(twin), rtol=near, atol=near)
    for form in BOTH:
        ours, receipt = trained(held, form)
        assert receipt.quantised == bits
        assert receipt.changed_weights > 0
        apply(twin, ours)
        torch.testing.assert_close(logits(held), logits(twin), rtol=near, atol=near)
        undo(twin, ours)
        assert (logits(held) - base).abs().max() > 2e-2
        undo(held, ours)
        assert torch.equal(logits(held), base)
    assert same(stored, storage(held))

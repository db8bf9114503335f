"""A merged folder is what plain transformers loads, and carries its proof and its limits."""

from __future__ import annotations

import dataclasses
import filecmp

import pytest
import torch
import transformers as hf
import yaml
from align_tiny import KINDS, batch, build, chosen, weights

from gguf_tiny import write_gguf
from precise_shield.align.delta import DirectUnits, LoraRows, tuning
from precise_shield.align.export import THREAT_MODEL, Card, export_merged
from precise_shield.align.receipt import StoredReceipt, make_receipt, seal
from precise_shield.align.sparse import undo
from precise_shield.core.errors import ReceiptError, StoreError
from precise_shield.models.architecture.bind import bind
from precise_shield.models.loading.model import load
from precise_shield.models.loading.spec import ModelSpec
from precise_shield.models.loading.weights import checked_fingerprint
from tiny_folders import save_tiny, tiny_loaded, words

CARD = Card(
    title="A strengthened tiny model",
    base="someone/tiny",
    base_revision="abc123",
    table="| | base | aligned |\n|---|---|---|\n| refused | 10 % | 90 % |",
    recipe={"seed": 0, "data": {"train": "sha256:12"}},
)
AUTO = {"llava": hf.AutoModelForImageTextToText}


def aligned(bound, form=None):
    form = form or LoraRows(rank=3, dropout=0.0)
    before = seal(bound, chosen(bound), form)
    with tuning(bound, chosen(bound), form, seed=0) as deltas, torch.no_grad():
        for parameter in deltas.parameters():
            parameter.normal_(std=0.1)
        bound.model(**batch(bound).inputs)
    return deltas.sparse(), stored_for(bound, deltas, before)


def stored_for(bound, deltas, before):
    receipt = make_receipt(
        bound, before, deltas.sparse(), deltas.form, deltas.counts(),
        condition="aligned", steps=1, learning_rate=1e-3, final_loss=1.0,
    )  # fmt: skip
    return StoredReceipt(receipt, before, deltas.neurons, deltas.form)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", KINDS)
def test_plain_transformers_loads_the_very_weights(name, dtype, tmp_path):
    bound = build(name, dtype)
    base = weights(bound)
    delta, stored = aligned(bound)
    export_merged(
        bound, tmp_path / "out", delta=delta, stored=stored, card=CARD, source=tmp_path,
        words=words(),
    )  # fmt: skip
    kind = AUTO.get(name, hf.AutoModelForCausalLM)
    loaded = kind.from_pretrained(tmp_path / "out", dtype="auto")
    assert all(torch.equal(v, loaded.state_dict()[n]) for n, v in weights(bound).items())
    assert not all(torch.equal(v, loaded.state_dict()[n]) for n, v in base.items())
    again = StoredReceipt.load(tmp_path / "out" / "receipt.json")
    assert (again.receipt, again.neurons, again.form) == (
        stored.receipt, stored.neurons, stored.form,
    )  # fmt: skip
    again.check(bind(loaded))
    with torch.no_grad():
        loaded.get_input_embeddings().weight[5, 5] += 0.5
    with pytest.raises(ReceiptError, match=r"1 of \d+ tensors"):
        again.check(bind(loaded))
    assert hf.AutoTokenizer.from_pretrained(tmp_path / "out")("The cat")["input_ids"]


@pytest.mark.parametrize("name", ["gpt2", "llava", "qwen3_vl"])
def test_a_folder_loads_as_its_base_did_with_every_file_of_it(name, tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    save_tiny(name, base)
    (base / "LICENSE").write_text("be kind")
    (base / "training_log.json").write_text("{}")
    was = tiny_loaded(name, base)
    bound = bind(was.model)
    before = seal(bound, chosen(bound), DirectUnits())
    with tuning(bound, chosen(bound), DirectUnits(), seed=0) as deltas:
        bound.backbone(input_ids=torch.tensor([[3, 4, 5]]))
        for parameter in deltas.parameters():
            parameter.data.fill_(0.01)
    stored = stored_for(bound, deltas, before)
    export_merged(bound, out, delta=deltas.sparse(), stored=stored, card=CARD, source=base)

    there = {file.name for file in base.iterdir()}
    companions = there - {"config.json", "generation_config.json", "training_log.json"}
    companions = {name for name in companions if not name.endswith(".safetensors")}
    assert len(companions) >= 3
    for file in companions:
        assert filecmp.cmp(base / file, out / file, shallow=False), file
    new = {"README.md", "receipt.json"}
    assert {file.name for file in out.iterdir()} == there - {"training_log.json"} | new
    again = tiny_loaded(name, out)
    assert again.template == was.template
    assert again.fingerprint != was.fingerprint
    assert all(torch.equal(v, again.model.state_dict()[n]) for n, v in weights(bound).items())


def test_the_card_says_what_was_measured_and_what_not():
    _, stored = aligned(build("llama"))
    text = CARD.markdown(stored)
    front = yaml.safe_load(text.split("---")[1])
    assert front["base_model"] == "someone/tiny"
    assert CARD.table in text
    assert THREAT_MODEL in text
    for word in ("comparing these weights", "fine-tuning steps", "Refusing everything"):
        assert word in text
    assert f"{stored.receipt.changed_weights:,} weights differ" in text
    assert f"{stored.receipt.trained_with_a:,} parameters were trained" in text
    receipt = stored.receipt.model_copy(update={"form": "damped", "trained_with_a": 0})
    still = CARD.markdown(dataclasses.replace(stored, receipt=receipt))
    assert "softly suppressed, without training.\nNo parameter was trained and\n" in still
    local = dataclasses.replace(CARD, base="tiny-sandbox").markdown(stored)
    assert "base_model" not in local


def test_what_must_not_be_exported_is_refused_and_leaves_nothing(tmp_path):
    bound = build("llama")
    delta, stored = aligned(bound)
    options = dict(delta=delta, stored=stored, card=CARD, source=tmp_path, words=words())
    out = tmp_path / "out"
    with pytest.raises(StoreError, match="no tokenizer files"):
        export_merged(bound, out, **{**options, "words": None})
    undo(bound, delta)
    with pytest.raises(ReceiptError, match="not applied"):
        export_merged(bound, out, **options)
    other = build("llama")
    delta, stored = aligned(other)
    other.model.lm_head.weight.data[0, 0] += 1.0
    with pytest.raises(ReceiptError, match="lm_head"):
        export_merged(other, out, **options)
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with pytest.raises(StoreError, match="would be overwritten"):
        export_merged(other, out, **options)


def test_a_receipt_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "receipt.json"
    with pytest.raises(StoreError, match="cannot be read"):
        StoredReceipt.load(path)
    path.write_text('{"schema_version": 1}')
    with pytest.raises(StoreError, match="cannot be read"):
        StoredReceipt.load(path)
    path.write_text('{"schema_version": 7}')
    with pytest.raises(StoreError, match="schema 7"):
        StoredReceipt.load(path)
    _, stored = aligned(build("llama"), DirectUnits())
    with pytest.raises(StoreError, match="would be overwritten"):
        stored.save(path)
    stored.save(tmp_path / "other.json")
    assert StoredReceipt.load(tmp_path / "other.json") == stored


def test_a_gguf_model_is_exported_as_plain_weights(tmp_path):
    """What was quantised loads as what was trained, with the tokenizer that the file held."""
    write_gguf(tmp_path / "tiny.gguf", "llama")
    was = load(ModelSpec(str(tmp_path / "tiny.gguf"), device="cpu"))
    bound = bind(was.model)
    delta, stored = aligned(bound)
    out = tmp_path / "out"
    export_merged(
        bound, out, delta=delta, stored=stored, card=CARD, source=was.folder, words=was.tokenizer
    )
    again = load(ModelSpec(str(out), device="cpu"))
    assert all(torch.equal(v, again.model.state_dict()[n]) for n, v in weights(bound).items())
    ids = [one.tokenizer("The cat sat")["input_ids"] for one in (was, again)]
    assert ids[0] == ids[1]
    assert again.template == was.template
    undo(bound, delta)
    assert again.fingerprint != was.fingerprint == checked_fingerprint(was.model)

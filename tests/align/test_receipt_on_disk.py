"""`receipt check` finds in a saved folder what an honest mistake would leave there."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers as hf
from align_tiny import build, chosen
from test_export import CARD, stored_for

from gguf_tiny import write_gguf
from precise_shield.align.delta import AllParameters, DirectUnits, LoraRows, tuning
from precise_shield.align.export import export_merged
from precise_shield.align.receipt import seal
from precise_shield.align.sparse import no_silence, undo
from precise_shield.core.errors import GateError, ReceiptError
from precise_shield.models.architecture.bind import bind
from precise_shield.models.loading.model import load
from precise_shield.models.loading.spec import ModelSpec
from precise_shield.workflows.align.arms import written
from precise_shield.workflows.base.sections.model import ModelSection
from precise_shield.workflows.handing.deltas import undo as undo_on_disk
from precise_shield.workflows.handing.receipts import receipt_check
from tiny import IDS, TEXT
from tiny_folders import TEMPLATE, words


def tied(_):
    config = hf.LlamaConfig(**{**TEXT, **IDS, "tie_word_embeddings": True})
    return bind(hf.LlamaForCausalLM(config).eval())


def attending(_):
    return build("llama", every=True)


def strengthened(bound, out, source, form=None):
    """A folder as `export` writes it, and the delta in it."""
    form = form or LoraRows(rank=3, dropout=0.0)
    before = seal(bound, chosen(bound), form)
    with tuning(bound, chosen(bound), form, seed=0) as deltas, torch.no_grad():
        for parameter in deltas.parameters():
            parameter.normal_(std=0.1)
        bound.backbone(input_ids=torch.tensor([[3, 4, 5]]))
    stored = stored_for(bound, deltas, before)
    delta = deltas.sparse()
    stored = dataclasses.replace(stored, written=written(delta))
    speaking = words()
    speaking.chat_template = TEMPLATE
    export_merged(bound, out, delta=delta, stored=stored, card=CARD, source=source, words=speaking)
    return delta, stored


def decay(model, delta):
    """AdamW with its default weight decay was handed a weight of which most rows are frozen."""
    weight = model.get_parameter(delta.changes[0].name)
    frozen = min(set(range(weight.shape[0])) - set(delta.changes[0].index))
    weight.data[frozen] *= 1 - 1e-2
    return delta.changes[0].name


def offset(model, delta):
    """The up half's rows written where the gate half's are."""
    change = next(c for c in delta.changes if "gate_up" in c.name)
    weight = model.get_parameter(change.name)
    half = weight.shape[0] // 2
    weight.data[[i % half + 1 for i in change.index]] = change.new
    return change.name


def embed(model, _):
    """The output head is tied to the embedding, so that moving one moves both."""
    model.get_output_embeddings().weight.data[3, 3] += 0.5
    return "embed_tokens"


@pytest.mark.parametrize(
    ("make", "family", "leak"),
    [(build, "llama", decay), (build, "phi3", offset), (tied, "llama", embed),
     (attending, "llama", decay)],
    ids=["weight decay", "fused offset", "tied embedding", "attention"],
)  # fmt: skip
def test_a_hand_made_leak_is_caught_on_disk(make, family, leak, tmp_path):
    out = tmp_path / "out"
    form = DirectUnits() if make is attending else None
    delta, _ = strengthened(make(family), out, tmp_path, form)
    assert "as aligned" in receipt_check(out)[0]
    model = hf.AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    named = leak(model, delta)
    model.save_pretrained(out)
    with pytest.raises(ReceiptError, match=named.replace(".", r"\.")):
        receipt_check(out)


def test_full_fine_tuning_is_checked_and_taken_out_on_disk(tmp_path):
    """Nothing is left untouched, and still: the file says what was written, and gives it back."""
    bound = tied("llama")
    base = {name: value.clone() for name, value in bound.model.state_dict().items()}
    delta, stored = strengthened(bound, tmp_path / "out", tmp_path, AllParameters())
    merged = ModelSection(path=str(tmp_path / "out"), device="cpu")
    assert (
        f"{stored.receipt.changed_weights:,} weights of the whole"
        in receipt_check(tmp_path / "out")[0]
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "with all of its parameters trained" in card
    assert "No weight was held fixed" in card
    exact = dataclasses.replace(delta, recipe={"receipt": stored.content(), "dtype": "float32"})
    exact.save(tmp_path / "delta.safetensors")
    assert "holds it" in receipt_check(tmp_path / "delta.safetensors", merged)[0]
    undo_on_disk(tmp_path / "delta.safetensors", merged, tmp_path / "back")
    back = load(ModelSpec(str(tmp_path / "back"), device="cpu")).model
    assert all(torch.equal(value, base[name]) for name, value in back.state_dict().items())
    down = next(c for c in delta.changes if "down" in c.name)
    down.new[:, 3] = 0  # a unit's column, hand-made
    with pytest.raises(GateError, match="suppress"):
        no_silence(bound, delta, "new")
    embed(back, delta)
    back.save_pretrained(tmp_path / "out")
    with pytest.raises(ReceiptError, match=r"embed_tokens.* not what the"):
        receipt_check(tmp_path / "out")


def test_a_delta_of_a_gguf_file_in_a_folder_is_checked_and_taken_out(tmp_path):
    """`--gguf-file` names the file inside the folder; attention's units are bound too."""
    write_gguf(tmp_path / "tiny.gguf", "llama")
    bound = bind(load(ModelSpec(str(tmp_path / "tiny.gguf"), device="cpu")).model,
                 units=("ffn", "attention"))  # fmt: skip
    delta, stored = strengthened(bound, tmp_path / "out", tmp_path, DirectUnits())
    exact = dataclasses.replace(delta, recipe={"receipt": stored.content(), "dtype": "float32"})
    exact.save(tmp_path / "delta.safetensors")
    base = ModelSection(path=str(tmp_path), gguf_file="tiny.gguf", device="cpu")
    assert "is its base" in receipt_check(tmp_path / "delta.safetensors", base)[0]
    merged = ModelSection(path=str(tmp_path / "out"), device="cpu")
    assert "holds it" in receipt_check(tmp_path / "delta.safetensors", merged)[0]
    undo_on_disk(tmp_path / "delta.safetensors", merged, tmp_path / "back")
    undo(bound, delta)
    back = load(ModelSpec(str(tmp_path / "back"), device="cpu")).model.state_dict()
    assert all(torch.equal(v, back[k]) for k, v in bound.model.state_dict().items())

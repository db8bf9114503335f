"""Deltas of different neurons share a model, conflicts are counted, and undo says what is left."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers as hf

from precise_shield.align.sparse import SparseDelta, applied
from precise_shield.core.errors import GateError, ReceiptError, StoreError
from precise_shield.core.summary import GateFacts
from precise_shield.workflows.align.arms import Arm
from precise_shield.workflows.align.sealing import sealed
from precise_shield.workflows.base.sections.model import ModelSection
from precise_shield.workflows.handing.deltas import apply, undo
from precise_shield.workflows.handing.export import card_of, export, passport
from precise_shield.workflows.handing.receipts import receipt_check


def section(folder):
    return ModelSection(path=str(folder), device="cpu")


def weights(folder):
    return hf.AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").state_dict()


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def two(finished, tmp_path_factory):
    """The exported alignment, and the random rows' delta dressed up as a second one."""
    run, summary = finished
    out = tmp_path_factory.mktemp("two")
    export(run.folder, out / "one.safetensors", kind="delta", force=True, quiet=True)
    receipt = next(r for r in summary.receipts if r.condition == "random-rows-0")
    path = run.folder / receipt.delta
    condition = next(c for c in summary.conditions if c.name == "random-rows-0")
    delta = SparseDelta.load(path)
    arm = Arm(condition, delta.neurons, receipt, path, path.parent.name)
    facts = summary.gate[0]
    kept = [limit.model_copy(update={"kept": True, "value": limit.limit}) for limit in facts.limits]
    judged = {"limits": kept, "weaker": None, "judged": arm.stored.digest}
    facts = sealed(facts.model_copy(update=judged))
    card = card_of(summary, arm, facts)
    recipe = passport(delta.recipe, arm.stored, card, facts)
    dataclasses.replace(delta, recipe=recipe).save(out / "two.safetensors")
    return out / "one.safetensors", out / "two.safetensors"


def test_two_deltas_compose_with_one_proof_and_come_off_one_by_one(
    finished, two, model_folder, tmp_path
):
    run, _ = finished
    one, other = two
    with pytest.raises(GateError, match="together no gate saw them"):
        apply(other, section(model_folder), tmp_path / "unforced", beside=[one])
    apply(other, section(model_folder), tmp_path / "both", beside=[one], force=True)
    deltas = [SparseDelta.load(path) for path in two]
    with applied(run.bound, deltas[0]), applied(run.bound, deltas[1]):
        expected = {k: v.clone() for k, v in run.loaded.model.state_dict().items()}
    assert same(weights(tmp_path / "both"), expected)
    assert "nobody measured them together" in (tmp_path / "both" / "README.md").read_text()
    assert "2 alignments are as written" in receipt_check(tmp_path / "both")[0]

    with pytest.raises(
        ReceiptError, match=r"not its base model's, the first .*name it with --with"
    ):
        undo(one, section(tmp_path / "both"), tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
    undo(one, section(tmp_path / "both"), tmp_path / "left", beside=[other])
    assert "two.safetensors` is still in it" in (tmp_path / "left" / "README.md").read_text()
    with applied(run.bound, deltas[1]):
        left = {k: v.clone() for k, v in run.loaded.model.state_dict().items()}
    assert same(weights(tmp_path / "left"), left)
    apply(one, section(tmp_path / "left"), tmp_path / "again", beside=[other], force=True)
    assert same(weights(tmp_path / "again"), expected)
    undo(other, section(tmp_path / "left"), tmp_path / "base")
    assert same(weights(tmp_path / "base"), weights(model_folder))
    assert not same(expected, weights(model_folder))


def test_a_second_delta_is_held_against_its_own_gate_too(two, model_folder, tmp_path):
    """--force writes what nobody measured together, and never what was seen to weaken."""
    one, other = two
    delta = SparseDelta.load(other)

    def beside(name, **changed):
        recipe = {**delta.recipe, **changed}
        path = tmp_path / name
        dataclasses.replace(delta, recipe=recipe).save(path)
        return path

    gate, receipt = delta.recipe["gate"], delta.recipe["receipt"]

    def forged(**changed):
        return sealed(GateFacts.model_validate({**gate, **changed})).model_dump(mode="json")

    edited = beside("edited", gate={**gate, "weaker": None, "split": "test"})
    weaker = beside("weaker", gate=forged(weaker="attack success rose"))
    damped = {**receipt, "receipt": {**receipt["receipt"], "form": "damped"}}
    safer = {**gate["aligned"], "attack_success": 0.0, "gap": 1.0}
    base = {**gate["base"], "attack_success": 1.0, "gap": 0.0}
    damping = beside("damping", receipt=damped, gate=forged(aligned=safer, base=base))
    silent = dataclasses.replace(delta.changes[0], new=torch.zeros_like(delta.changes[0].new))
    silencing = tmp_path / "silencing"
    dataclasses.replace(delta, changes=(silent, *delta.changes[1:])).save(silencing)
    plain = {k: v for k, v in delta.recipe.items() if k != "gate"}
    dataclasses.replace(delta, recipe=plain).save(tmp_path / "ungated")
    for path, error, words in [
        (weaker, GateError, "weaker than its base is never written"),
        (damping, GateError, "goes into its base model alone"),
        (silencing, GateError, "suppresses neurons"),
        (tmp_path / "ungated", StoreError, "how its model fared"),
        (edited, StoreError, "gate was changed after it was measured"),
    ]:
        with pytest.raises(error, match=words):
            apply(one, section(model_folder), tmp_path / "out", beside=[path], force=True)
    with pytest.raises(GateError, match="goes into its base model alone"):
        apply(damping, section(model_folder), tmp_path / "out", beside=[one], force=True)
    assert not (tmp_path / "out").exists()


def test_deltas_of_the_same_slices_are_refused_with_their_number(two, model_folder, tmp_path):
    one, _ = two
    delta = SparseDelta.load(one)
    delta.save(tmp_path / "twin.safetensors")
    count = sum(len(change.index) for change in delta.changes)
    with pytest.raises(ReceiptError, match=f"both change {count} slices of {len(delta.changes)}"):
        apply(one, section(model_folder), tmp_path / "out", force=True,
              beside=[tmp_path / "twin.safetensors"])  # fmt: skip
    with pytest.raises(ReceiptError, match="lies on the other"):
        undo(one, section(model_folder), tmp_path / "out", beside=[tmp_path / "twin.safetensors"])
    assert not (tmp_path / "out").exists()


def test_undo_refuses_a_model_that_was_changed_elsewhere(two, model_folder, tmp_path):
    """One bit of a tensor that the delta never touched, and one of a weight that it did."""
    one, _ = two
    delta = SparseDelta.load(one)
    model = hf.AutoModelForImageTextToText.from_pretrained(model_folder, dtype="auto")
    apply(one, section(model_folder), tmp_path / "strong", force=True)
    strong = weights(tmp_path / "strong")
    first = delta.changes[0]
    row = next(i for i in range(99) if i not in first.index)
    for name, place in [("model.language_model.norm.weight", (0,)), (first.name, (row, 0))]:
        model.load_state_dict(strong)
        model.get_parameter(name).data[place] += 1
        folder = tmp_path / name
        apply(one, section(model_folder), folder, force=True)
        model.save_pretrained(folder)
        with pytest.raises(ReceiptError, match=f"1 tensors are not .*first {name}"):
            undo(one, section(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nobodys_part_folder_is_deleted(finished, model_folder, two, tmp_path):
    """`OUT.part` may be somebody's own."""
    run, _ = finished
    mine = tmp_path / "out.part"
    mine.mkdir()
    (mine / "thesis").write_text("years of work")
    apply(two[0], section(model_folder), tmp_path / "out", force=True)
    export(run.folder, tmp_path / "adapter", kind="peft", device="cpu", force=True, quiet=True)
    (tmp_path / "delta.part").write_text("mine")
    SparseDelta.load(two[0]).save(tmp_path / "delta")
    assert (mine / "thesis").read_text() == "years of work"
    assert (tmp_path / "delta.part").read_text() == "mine"
    kept = {"out.part", "out", "adapter", "delta", "delta.part"}
    assert {each.name for each in tmp_path.iterdir()} == kept  # and nothing of ours is left over
    with pytest.raises(StoreError, match="would be overwritten"):
        apply(two[0], section(model_folder), tmp_path / "out", force=True)

"""What leaves the machine loads elsewhere, proves what it is, and comes off again bit for bit."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
import transformers as hf

import judged
from precise_shield import api
from precise_shield.align.export import Card
from precise_shield.align.sparse import SparseDelta, applied
from precise_shield.cli import main
from precise_shield.core.errors import ConfigError, GateError, ReceiptError, StoreError
from precise_shield.core.summary import Condition
from precise_shield.evaluate.counting.bootstrap import grouped_difference
from precise_shield.models.loading.model import load
from precise_shield.models.loading.spec import ModelSpec
from precise_shield.workflows.align import gate
from precise_shield.workflows.align.arms import Arm
from precise_shield.workflows.align.gate import require_gate
from precise_shield.workflows.base.sections.model import ModelSection
from precise_shield.workflows.base.summary_file import read_summary
from precise_shield.workflows.handing.deltas import apply, undo
from precise_shield.workflows.handing.export import arm_of, export, measured_table
from precise_shield.workflows.handing.receipts import receipt_check
from report.fixture import realistic


def section(folder, **more):
    return ModelSection(path=str(folder), device="cpu", **more)


def weights(folder):
    model = hf.AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    return model.state_dict()


@pytest.fixture(scope="module")
def handed(finished, model_folder, tmp_path_factory):
    """Every kind of export of the finished run; the random model breaks limits, hence force."""
    run, _ = finished
    out = tmp_path_factory.mktemp("handed")
    for kind, name in [("merged", "merged"), ("peft", "peft"), ("delta", "exact.safetensors"),
                       ("low_rank", "small.safetensors")]:  # fmt: skip
        export(run.folder, out / name, kind=kind, force=True, quiet=True)
    return out


def test_a_limit_that_is_broken_keeps_the_model_here(finished, tmp_path):
    run, summary = finished
    assert [facts.condition for facts in summary.gate] == ["aligned"]
    facts = gate.gate(run, arm_of(run.folder, summary, "aligned"))
    with pytest.raises(GateError) as error:
        export(run.folder, tmp_path / "out", quiet=True)
    for limit in facts.broken:
        assert limit.sentence in str(error.value)
    assert facts.broken
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_could_judge_is_not_written_by_force(finished, tmp_path, monkeypatch):
    run, _ = finished
    judged.stub(monkeypatch, lambda *_: "unclear")
    with pytest.raises(GateError, match=r"no answer to a harmful .* not even with --force"):
        export(run.folder, tmp_path / "out", force=True, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_loosened_after_the_run_is_named_beside_the_one_it_was_gated_under(
    finished, tmp_path
):
    """`config.yaml` is a text file; the stage that holds the limits is keyed by them."""
    run, summary = finished
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    text = (folder / "config.yaml").read_text()
    loose = text.replace("over_refusal_rise: 0.05", "over_refusal_rise: 1.0")
    assert loose != text
    (folder / "config.yaml").write_text(loose)
    with pytest.raises(GateError, match=r"at most 0.05 is asked for by the run; .* changed since"):
        export(folder, tmp_path / "out", quiet=True)
    done = export(folder, tmp_path / "out", kind="delta", force=True, quiet=True)
    limits = {
        limit.limit for limit in done.gate.limits if limit.name.startswith("refusals of benign")
    }
    assert limits == {0.05, 1.0}
    assert not done.gate.passed
    stage = folder / "stages" / "gate" / str(summary.gate[0].key) / "stage.json"
    stage.write_text(
        stage.read_text().replace('"over_refusal_rise": 0.05', '"over_refusal_rise": 1')
    )
    with pytest.raises(StoreError, match="changed after it was written"):
        export(folder, tmp_path / "two", force=True, quiet=True)


def test_a_model_weaker_than_its_base_is_not_written_by_force(finished):
    run, summary = finished
    facts = gate.gate(run, arm_of(run.folder, summary, "aligned"))
    require_gate(facts, force=True)
    weaker = facts.model_copy(update={"weaker": "attack success rose"})
    with pytest.raises(GateError, match="not even with --force"):
        require_gate(weaker, force=True)
    assert not weaker.passed


def test_a_rise_without_an_interval_is_not_written_by_force(finished, tmp_path, monkeypatch):
    """One group of requests has no interval that could excuse that it is attacked more often."""
    run, _ = finished
    rise = grouped_difference({"a": False}, {"a": True}, {"a": "one"})
    assert rise.difference == 1
    monkeypatch.setattr(gate, "compared", lambda *_: rise)
    with pytest.raises(GateError, match=r"100.0 points, and one group.*not even with --force"):
        export(run.folder, tmp_path / "out", force=True, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_controls_and_suppressed_models_are_not_exported(finished, tmp_path):
    run, _ = finished
    for name in ("random-rows-0", "suppressed", "random-suppressed-0", "base", "nonsense"):
        with pytest.raises(StoreError, match="never exported"):
            export(run.folder, tmp_path / "out", condition=name, force=True, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_the_merged_folder_is_the_measured_model(finished, handed, model_folder):
    """Plain transformers loads it; its weights are those that answered the test prompts."""
    run, summary = finished
    delta = SparseDelta.load(run.folder / summary.receipts[0].delta)
    with applied(run.bound, delta):
        measured = {k: v.clone() for k, v in run.loaded.model.state_dict().items()}
    there = weights(handed / "merged")
    assert there.keys() == measured.keys()
    assert all(torch.equal(value, measured[key]) for key, value in there.items())
    base = weights(model_folder)
    moved = sum(int((there[key] != value).sum()) for key, value in base.items())
    assert moved == summary.receipts[0].changed_weights > 0
    card = (handed / "merged" / "README.md").read_text()
    assert "comparing these weights" in card
    assert "random neurons tuned" in card  # the control stands beside the effect
    assert "not passed; written with `--force`" in card
    assert str(run.folder) not in card
    assert str(Path(model_folder).parent) not in card


def test_the_card_of_an_amplified_model_has_its_own_control(finished):
    """No neuron of it was trained, and beside it stand random neurons that were amplified."""
    run, summary = finished
    arm = arm_of(run.folder, summary, "aligned")

    def named(name, kind):
        return Condition(name=name, kind=kind, label=name)

    strong, beside = named("amplified", "amplified"), named("scaled-at-random", "random_amplified")
    summary = summary.model_copy(update={"conditions": [*summary.conditions, strong, beside]})
    head = measured_table(summary, dataclasses.replace(arm, condition=strong)).splitlines()[0]
    assert "scaled-at-random" in head
    assert "random neurons tuned" not in head
    assert "scaled-at-random" not in measured_table(summary, arm)
    assert "random neurons tuned" in measured_table(summary, arm).splitlines()[0]
    card = Card("t", "b", None, "", {})
    assert "neurons trained to refuse" in card.markdown(arm.stored)
    receipt = arm.receipt.model_copy(update={"form": "amplified"})
    said = card.markdown(dataclasses.replace(arm.stored, receipt=receipt))
    assert "neurons amplified, without training" in said
    assert "trained to refuse" not in said


def test_receipts_hold_on_disk_and_catch_what_moved(finished, handed, model_folder, tmp_path):
    run, _ = finished
    base = section(model_folder)
    assert len(receipt_check(run.folder)) == 4  # aligned, random rows, zero-shot, its random
    assert "as aligned" in receipt_check(handed / "merged")[0]
    assert "nothing else" in receipt_check(handed / "peft", base)[0]
    exact = handed / "exact.safetensors"
    assert "nothing else" in receipt_check(exact)[0]
    assert "is its base" in receipt_check(exact, base)[0]
    assert "holds it" in receipt_check(exact, section(handed / "merged"))[0]
    with pytest.raises(ConfigError, match="base model"):
        receipt_check(handed / "peft")
    with pytest.raises(StoreError, match="no receipt"):
        receipt_check(tmp_path)

    loaded = load(ModelSpec(str(handed / "merged"), device="cpu"))
    for name in ("chosen", "other"):
        changed = tmp_path / name
        shutil.copytree(handed / "merged", changed)
        delta = SparseDelta.load(exact)
        weight = loaded.model.get_parameter(delta.changes[0].name)
        index = delta.changes[0].index
        row = index[0] if name == "chosen" else next(i for i in range(99) if i not in index)
        was = weight.data[row, 0].item()
        weight.data[row, 0] += 1
        loaded.model.save_pretrained(changed)
        weight.data[row, 0] = was
        with pytest.raises(ReceiptError, match="not what the" if name == "chosen" else "1 of"):
            receipt_check(changed)


@pytest.mark.parametrize("file", ["exact.safetensors", "small.safetensors"])
def test_apply_and_undo_are_bit_exact_and_refused_elsewhere(file, handed, model_folder, tmp_path):
    apply(handed / file, section(model_folder), tmp_path / "strong", force=True)
    merged, strong = weights(handed / "merged"), weights(tmp_path / "strong")
    assert all(torch.equal(value, merged[key]) for key, value in strong.items())
    with pytest.raises(ReceiptError):
        apply(handed / file, section(tmp_path / "strong"), tmp_path / "twice", force=True)
    with pytest.raises(GateError, match="limits"):
        apply(handed / file, section(model_folder), tmp_path / "unforced")
    if file == "small.safetensors":
        with pytest.raises(StoreError, match="no old values"):
            undo(handed / file, section(tmp_path / "strong"), tmp_path / "back")
        return
    undo(handed / file, section(tmp_path / "strong"), tmp_path / "back")
    base, back = weights(model_folder), weights(tmp_path / "back")
    assert base.keys() == back.keys()
    assert all(torch.equal(value, base[key]) for key, value in back.items())
    assert not all(torch.equal(value, base[key]) for key, value in strong.items())
    with pytest.raises(ReceiptError, match="not applied"):
        undo(handed / file, section(model_folder), tmp_path / "base")
    was = load(ModelSpec(str(model_folder), device="cpu"))
    again = load(ModelSpec(str(tmp_path / "back"), device="cpu"))
    assert again.fingerprint == was.fingerprint
    assert again.template == was.template
    assert not any((tmp_path / name).exists() for name in ("twice", "unforced", "base"))


def test_a_delta_that_silences_neurons_is_never_applied(handed, model_folder, tmp_path):
    delta = SparseDelta.load(handed / "exact.safetensors")
    first = delta.changes[0]
    silent = dataclasses.replace(first, new=torch.zeros_like(first.new))
    dataclasses.replace(delta, changes=(silent, *delta.changes[1:])).save(tmp_path / "bad")
    with pytest.raises(GateError, match="suppress"):
        apply(tmp_path / "bad", section(model_folder), tmp_path / "out", force=True)
    with pytest.raises(ReceiptError, match="does not hold what its receipt says"):
        receipt_check(tmp_path / "bad")
    twice = dataclasses.replace(first, new=2 * first.new)
    dataclasses.replace(delta, changes=(twice, *delta.changes[1:])).save(tmp_path / "twice")
    with pytest.raises(ReceiptError, match="does not hold what its receipt says"):
        apply(tmp_path / "twice", section(model_folder), tmp_path / "out", force=True)
    turned = dataclasses.replace(first, old=torch.zeros_like(first.old))
    dataclasses.replace(delta, changes=(turned, *delta.changes[1:])).save(tmp_path / "turned")
    with pytest.raises(GateError, match="suppress"):
        undo(tmp_path / "turned", section(handed / "merged"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stored_delta_that_was_changed_after_it_was_trained_is_not_exported(finished, tmp_path):
    """Its answers are stored: the gate would judge what is no longer there."""
    folder = Path(shutil.copytree(finished[0].folder, tmp_path / "run"))
    arm = arm_of(folder, finished[1], "aligned")
    delta = arm.delta()
    turned = [dataclasses.replace(each, new=2 * each.new) for each in delta.changes]
    arm.delta_path.unlink()
    dataclasses.replace(delta, changes=tuple(turned)).save(arm.delta_path)
    with pytest.raises(ReceiptError, match="does not hold what its receipt says"):
        export(folder, tmp_path / "out", kind="delta", force=True, quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_runs_own_delta_has_not_passed_a_gate(finished, model_folder, tmp_path):
    run, summary = finished
    with pytest.raises(StoreError, match="export --delta"):
        apply(run.folder / summary.receipts[0].delta, section(model_folder), tmp_path / "out")


def test_peft_gives_the_merged_models_logits(handed, model_folder):
    base = hf.AutoModelForImageTextToText.from_pretrained(model_folder)
    merged = hf.AutoModelForImageTextToText.from_pretrained(handed / "merged")
    ids = torch.tensor([[7, 8, 9, 10, 11]])
    with torch.no_grad():
        before = base(input_ids=ids).logits
        wrapped = peft.PeftModel.from_pretrained(base, handed / "peft")
        torch.testing.assert_close(
            wrapped(input_ids=ids).logits, merged(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )
        assert not torch.equal(before, merged(input_ids=ids).logits)


def test_the_commands_do_the_same(handed, finished, model_folder, tmp_path, monkeypatch, capsys):
    run, _ = finished

    def cli(*words):
        monkeypatch.setattr("sys.argv", ["precise-shield", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    code, said = cli("export", run.folder, tmp_path / "m", "--quiet")
    assert (code, "breaks" in said.err) == (2, True)
    code, said = cli("export", run.folder, tmp_path / "p", "--peft", "--delta")
    assert (code, "at most one" in said.err) == (2, True)
    exact = handed / "exact.safetensors"
    code, said = cli("receipt", "check", exact, model_folder)
    assert (code, "is its base" in said.out) == (0, True)
    code, said = cli("apply", exact, model_folder, tmp_path / "strong", "--force")
    assert (code, (tmp_path / "strong" / "README.md").is_file()) == (0, True)
    code, said = cli("undo", exact, tmp_path / "strong", tmp_path / "back")
    assert (code, (tmp_path / "back" / "receipt.json").exists()) == (0, False)
    code, said = cli("export", run.folder, tmp_path / "a", "--peft", "--force", "--quiet")
    assert (code, (tmp_path / "a" / "adapter_config.json").is_file()) == (0, True)


def test_a_run_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(StoreError, match="missing"):
        export(tmp_path / "none", tmp_path / "out", quiet=True)
    (tmp_path / "out").mkdir()
    with pytest.raises(StoreError, match="would be overwritten"):
        api.export(tmp_path / "none", tmp_path / "out", quiet=True)


def test_the_summary_keeps_what_the_gate_found(finished):
    run, summary = finished
    stored = json.loads((run.folder / "summary.json").read_text())
    now = stored["gate"][0]["aligned"]
    assert now["harmful"] + now["benign"] + now["unscored"] > 0
    assert now["gap"] is None or -1 <= now["gap"] <= 1
    assert read_summary(run.folder).gate == summary.gate


def test_a_card_counts_as_controls_only_models_that_were_made_alike():
    summary = realistic()
    names = {"random-damped-0": "random", "random-damped-1": "random",
             "damped-response": "scoped", "random-damped-0-response": "scoped"}  # fmt: skip
    more = [
        Condition(name=n, kind="random_damped" if n.startswith("random") else "damped", label=words)
        for n, words in names.items()
    ]
    arm = Arm.__new__(Arm)
    object.__setattr__(arm, "condition", Condition(name="damped", kind="damped", label="damped"))
    conditions = [*summary.conditions, arm.condition, *more]
    text = measured_table(summary.model_copy(update={"conditions": conditions}), arm)
    assert "| damped | random |" in text
    assert "2 random controls made alike, the first shown." in text
    assert "scoped" not in text

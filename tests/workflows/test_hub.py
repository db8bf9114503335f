"""Only what its gate let through is pushed, with its card, and comes back as it went."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from hub_server import serving
from huggingface_hub import constants
from typer.testing import CliRunner

from precise_shield.align.sparse import SparseDelta
from precise_shield.cli import app
from precise_shield.core.errors import (
    ConfigError,
    GateError,
    LoadingError,
    ReceiptError,
    StoreError,
)
from precise_shield.workflows.align.sealing import must_be_of, sealed
from precise_shield.workflows.handing import export as exporting
from precise_shield.workflows.handing import hub as hubs
from precise_shield.workflows.handing.export import export
from precise_shield.workflows.handing.hub import fetched_atlas, fetched_delta, push, pushing
from precise_shield.workflows.identify.stage import identified, load_atlas

NAME = "someone/thing"


@pytest.fixture(scope="module")
def passed(finished, tmp_path_factory):
    """Every kind of export, as if the random model had kept every limit."""
    run, summary = finished
    facts = summary.gate[0]
    met = [x.model_copy(update={"kept": True, "value": x.limit}) for x in facts.limits]
    good = sealed(facts.model_copy(update={"limits": met}))
    out = tmp_path_factory.mktemp("passed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "gate", lambda *_: good)
        for kind in ("merged", "peft", "delta", "low_rank"):
            export(run.folder, out / kind, kind=kind, quiet=True)
    return out


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving() as store:
        monkeypatch.setenv("HF_ENDPOINT", store.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield store


@pytest.mark.parametrize("kind", ["merged", "peft", "delta", "low_rank"])
def test_a_push_holds_what_was_exported_and_its_card(passed, hub, kind):
    assert push(passed / kind, NAME) == f"{hub.url}/{NAME}"
    assert hub.repos[NAME]["visibility"] == "private"
    assert hub.tokens == {"Bearer hf_test"}
    card = hub.files["README.md"].decode()
    assert "## Measured" in card
    assert "comparing these weights" in card
    assert json.loads(hub.files["gate.json"])["passed"]
    assert "receipt.json" in hub.files
    if kind in ("merged", "peft"):
        here = {file.name: file.read_bytes() for file in (passed / kind).iterdir()}
        assert hub.files == here
        return
    assert f"precise-shield apply {NAME}" in card
    found = fetched_delta(NAME)
    assert found.read_bytes() == (passed / kind).read_bytes()
    assert found.name == {"delta": "delta", "low_rank": "lowrank"}[kind] + ".safetensors"


def test_an_atlas_goes_and_comes_back(finished, hub):
    run, _ = finished
    push(identified(run).folder, NAME, public=True)
    assert hub.repos[NAME]["visibility"] == "public"
    assert set(hub.files) == {"atlas.safetensors", "atlas.json", "README.md"}
    back = load_atlas(fetched_atlas(NAME))
    assert back.sets == load_atlas(identified(run).folder).sets
    with pytest.raises(LoadingError, match=r"holds none of delta\.safetensors"):
        fetched_delta(NAME)


def test_what_the_gate_refused_is_never_pushed(finished, hub, tmp_path):
    """Not even what --force wrote here."""
    run, _ = finished
    for kind in ("merged", "delta"):
        export(run.folder, tmp_path / kind, kind=kind, force=True, quiet=True)
        with pytest.raises(GateError, match="never pushed"):
            push(tmp_path / kind, NAME)
    path = run.folder / read_delta_path(finished)
    with pytest.raises(StoreError, match="how its model fared"):
        push(path, NAME)
    assert (hub.repos, hub.files) == ({}, {})


def read_delta_path(finished):
    return finished[1].receipts[0].delta


def test_nothing_goes_without_its_card_or_changed_since_its_gate(finished, passed, hub, tmp_path):
    for name in ("card", "weights", "more"):
        shutil.copytree(passed / "merged", tmp_path / name)
    (tmp_path / "card" / "README.md").write_text("# my model")
    with pytest.raises(StoreError, match="lacks the measured table"):
        push(tmp_path / "card", NAME)
    weights = tmp_path / "weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(StoreError, match="changed after its gate"):
        push(tmp_path / "weights", NAME)
    (tmp_path / "more" / "extra.safetensors").write_bytes(b"x")
    with pytest.raises(StoreError, match="not among the files"):
        push(tmp_path / "more", NAME)
    for name in ("older/model.safetensors", "pytorch_model.bin"):
        kept = tmp_path / name.partition(".")[0].replace("/", "-")
        shutil.copytree(passed / "merged", kept)
        (kept / name).parent.mkdir(exist_ok=True)
        (kept / name).write_bytes(b"another model")
        with pytest.raises(StoreError, match=f"{name} is not among the files"):
            push(kept, NAME)
    run, summary = finished
    for name, words, edit in [
        ("kept", "gate was changed after it", lambda g: g["limits"][0].update(value=-9.0)),
        ("figure", "gate was changed after it", lambda g: g["aligned"].update(gap=1.0)),
        ("swapped", "judged another alignment", lambda g: g.update(judged="0" * 64)),
        ("older", "an older version wrote it", lambda g: g.update(digest=None)),
    ]:
        shutil.copytree(passed / "peft", tmp_path / name)
        told = json.loads((tmp_path / name / "gate.json").read_text())
        edit(told["gate"])
        (tmp_path / name / "gate.json").write_text(json.dumps(told))
        with pytest.raises(StoreError, match=words):
            push(tmp_path / name, NAME)
    with pytest.raises(StoreError, match="holds other figures than its gate"):
        push(passed / "delta", NAME, run=run.folder)  # the limits were met by hand
    must_be_of(summary.gate[0], run.folder, "the run's own")
    shutil.copytree(passed / "peft", tmp_path / "scaled")
    config = tmp_path / "scaled" / "adapter_config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps({**told, "lora_alpha": -told["lora_alpha"]}))
    with pytest.raises(StoreError, match=r"adapter_config\.json was changed after its gate"):
        push(tmp_path / "scaled", NAME)
    delta = SparseDelta.load(passed / "delta")
    first = dataclasses.replace(delta.changes[0], new=delta.changes[0].new * 2)
    dataclasses.replace(delta, changes=(first, *delta.changes[1:])).save(tmp_path / "other")
    with pytest.raises(ReceiptError, match="does not hold what its receipt says"):
        push(tmp_path / "other", NAME)
    with pytest.raises(ConfigError, match="owner/name"), pushing(passed / "merged", "thing"):
        pass
    with pytest.raises(StoreError, match="no delta and no atlas"):
        push(tmp_path, NAME)
    assert hub.files == {}


def test_no_token_and_no_network_are_one_sentence(passed, hub, monkeypatch):
    monkeypatch.setattr(hubs, "get_token", lambda: None)
    with pytest.raises(LoadingError, match="no hub token: log in with"):
        push(passed / "peft", NAME)
    monkeypatch.undo()
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with pytest.raises(LoadingError, match="cannot be reached or refuses"):
        push(passed / "peft", NAME)  # tests are offline
    with pytest.raises(LoadingError, match="there is no such file here"):
        fetched_delta("someone/else")


def test_the_command_asks_first_and_takes_no_for_an_answer(passed, hub, model_folder, tmp_path):
    words = ["push", str(passed / "delta"), NAME]
    said = CliRunner().invoke(app, words, input="n\n")
    assert "nothing was pushed" in said.output
    assert "(private)?" in said.output
    assert hub.files == {}
    said = CliRunner().invoke(app, [*words, "--yes"])
    assert f"pushed {hub.url}/{NAME}" in said.output
    out = tmp_path / "out"
    said = CliRunner().invoke(app, ["apply", NAME, str(model_folder), str(out)])
    assert f"wrote {out}" in said.output
    assert json.loads((out / "gate.json").read_text())["passed"]

"""Stages are written once, whole or not at all, and keyed by what made them."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from precise_shield.core.errors import StoreError
from precise_shield.core.store import RunStore, digest, whole_file, whole_folder, write_whole
from precise_shield.core.tensors import write_tensors


def test_equal_inputs_meet_the_same_stage_and_other_inputs_do_not(tmp_path):
    store = RunStore(tmp_path)
    first = store.stage("identify", {"p": 0.03, "model": "a"})
    assert store.stage("identify", {"model": "a", "p": 0.03}).folder == first.folder
    assert store.stage("identify", {"p": 0.05, "model": "a"}).folder != first.folder
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_a_finished_stage_is_reused_and_never_rewritten(tmp_path):
    stage = RunStore(tmp_path).stage("explain", {})
    with stage.writing():
        stage.write_json("out.json", {"x": 1})
    again = RunStore(tmp_path).stage("explain", {})
    assert again.reused
    assert again.read_json("out.json") == {"x": 1}
    with pytest.raises(StoreError, match="written once"), again.writing():
        pass


def test_an_interrupted_stage_is_not_done_and_keeps_what_it_wrote(tmp_path):
    stage = RunStore(tmp_path).stage("respond", {})
    with pytest.raises(KeyboardInterrupt), stage.writing():
        stage.write_json("part.json", [1])
        raise KeyboardInterrupt
    again = RunStore(tmp_path).stage("respond", {})
    assert not again.done
    assert again.read_json("part.json") == [1]


def test_a_folder_that_cannot_be_written_gives_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    stage = RunStore(tmp_path / "file").stage("identify", {})
    with (
        pytest.raises(StoreError, match=r"cannot write under .*choose another --out"),
        stage.writing(),
    ):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_gives_one_sentence(tmp_path):
    stage = RunStore(tmp_path).stage("identify", {})
    with pytest.raises(StoreError, match=r"No space left.*run the same command again"):
        with stage.writing(), Path("/dev/full").open("w") as out:
            out.write("x" * 100_000)
    assert not stage.done


def test_tensors_that_cannot_be_written_give_one_sentence(tmp_path):
    stage = RunStore(tmp_path).stage("collect", {})
    with pytest.raises(StoreError, match="choose another --out"), stage.writing():
        save_file({"a": torch.ones(2)}, tmp_path / "no-such-folder" / "stats.safetensors")
    assert not stage.done


def test_damaged_artefacts_say_so(tmp_path):
    stage = RunStore(tmp_path).stage("explain", {})
    with stage.writing():
        stage.write_json("out.json", 1)
    stage.path("out.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        stage.read_json("out.json")
    with pytest.raises(StoreError, match="missing"):
        stage.read_json("other.json")


def test_the_record_says_what_made_a_stage(tmp_path):
    stage = RunStore(tmp_path).stage("explain", {"p": 0.03})
    with stage.writing():
        pass
    assert stage.record().made_by == {"p": 0.03}
    assert json.loads(stage.path("stage.json").read_text())["peak_memory_mb"] > 0


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_every_written_file_has_the_permissions_that_the_system_gives(tmp_path, umask):
    """safetensors alone would close its files to everybody else."""
    tensors = {"a": torch.ones(2)}
    old = os.umask(umask)
    try:
        with whole_folder(tmp_path / "folder") as part:
            (part / "below").mkdir()
            save_file(tensors, part / "below" / "a.safetensors")
        with whole_file(tmp_path / "b.safetensors") as part:
            save_file(tensors, part)
        write_tensors(tmp_path / "c.safetensors", tensors, {"x": "y"})
        write_whole(tmp_path / "d.txt", "d")
        stage = RunStore(tmp_path).stage("collect", {})
        with stage.writing():
            stage.write_table("e.jsonl", [])
    finally:
        os.umask(old)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
    assert len(files) == 6  # nothing else is left lying about
    with safe_open(tmp_path / "c.safetensors", "pt") as opened:
        assert opened.metadata() == {"x": "y"}

"""A stage's key holds what the model was shown: its weights alone do not say that."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

import tiny_folders
from data.making import example
from precise_shield.models.loading.model import load
from precise_shield.models.loading.spec import ModelSpec
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import Run

CONFIG = "{model: {path: sandbox}, data: {sources: [{source: sandbox}]}}"


def key_of(folder, **loaded):
    run = Run(parse_config(CONFIG), folder)
    model = SimpleNamespace(dtype="float32")
    fields = {"fingerprint": "same", "model": model, "template": "", "reading": "", **loaded}
    run.__dict__["loaded"] = SimpleNamespace(**fields)
    return run.store.stage("respond", run.made_by([example(0)])).key


def test_another_chat_template_makes_another_stage(tmp_path):
    keys = [key_of(tmp_path, template=t) for t in ("{{ messages }}", "{{ messages }} ")]
    assert keys[0] != keys[1]
    assert keys[0] == key_of(tmp_path, template="{{ messages }}")
    assert key_of(tmp_path, reading="x") != key_of(tmp_path)


def edited(folder, name, change):
    """Change a JSON file of a model's folder wherever `change` finds what it wants."""
    path = folder / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer.json", lambda t: t.update(normalizer={"type": "Lowercase"})),
        ("preprocessor_config.json", lambda p: p.update(image_mean=[0.1, 0.2, 0.3])),
        ("processor_config.json", lambda p: p.update(num_additional_image_tokens=0)),
    ],
)
def test_the_same_weights_behind_another_reading_of_words_or_pictures_differ(
    tmp_path, name, change
):
    """Tokenizer and image processor are part of what a model is shown."""
    folder = tiny_folders.tiny_loaded("llava", tmp_path / "a").folder
    shutil.copytree(folder, tmp_path / "b")
    (tmp_path / "b" / "README.md").write_text("Nobody reads this.")
    spec = {"dtype": "float32", "device": "cpu"}
    one, same = (load(ModelSpec(str(each), **spec)) for each in (folder, tmp_path / "b"))
    assert one.reading == same.reading
    edited(tmp_path / "b", name, change)
    other = load(ModelSpec(str(tmp_path / "b"), **spec))
    assert one.fingerprint == other.fingerprint
    assert one.reading != other.reading

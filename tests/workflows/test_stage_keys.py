"""A stage's key holds what the model was shown: its weights alone do not say that."""

from __future__ import annotations

from types import SimpleNamespace

from data.making import example
from precise_shield.workflows.config import parse_config
from precise_shield.workflows.context import Run

CONFIG = "{model: {path: sandbox}, data: {sources: [{source: sandbox}]}}"


def test_another_chat_template_makes_another_stage(tmp_path):
    keys = []
    for template in ("{{ messages }}", "{{ messages }} ", "{{ messages }}"):
        run = Run(parse_config(CONFIG), tmp_path)
        model = SimpleNamespace(dtype="float32")
        run.__dict__["loaded"] = SimpleNamespace(fingerprint="same", model=model, template=template)
        keys.append(run.store.stage("respond", run.made_by([example(0)])).key)
    assert keys[0] == keys[2] != keys[1]

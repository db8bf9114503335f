"""Transforms named in a configuration dress a run's data before anything looks at them."""

from __future__ import annotations

import json

import pytest

from data.making import values
from precise_shield.core.errors import ConfigError
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import Run

CONFIG = """
model: {{path: sandbox}}
data:
  sources: [{{source: manifest, path: {path}}}]
  transforms:
    - {{name: prefill, options: {{splits: [test]}}}}
    - {{name: typography, options: {{splits: [test], keep: true, width: 200, size: 20}}}}
"""


def run(folder, *changes):
    rows = [values(0), values(1, split="test"), values(2, split="test", language="xx")]
    path = folder / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return Run(parse_config(CONFIG.format(path=path), changes), folder / "run")


def test_transforms_follow_each_other_and_bad_rows_are_counted(tmp_path):
    work = run(tmp_path, "data.on_bad_row=skip")
    assert [(row.id, row.modality, row.prefill) for row in work.data.examples] == [
        ("r0", "text", None),
        ("r1+prefill", "text", "Sure, here is"),
        ("r1+prefill+typography", "image_dominant", "Sure, here is"),
    ]
    assert work.dropped_rows == 1
    assert list((tmp_path / "run" / "data" / "transforms").glob("*.png"))


def test_an_option_that_is_none_is_a_sentence(tmp_path):
    work = run(tmp_path, "data.transforms.0.options={colour: red}")
    with pytest.raises(ConfigError, match="transform 'prefill', option colour"):
        _ = work.data

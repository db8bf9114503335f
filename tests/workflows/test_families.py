"""The whole pipeline runs on other vision-language families, with their real processors."""

import importlib.util

import pytest

import tiny_folders
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.run import run_all

CONFIG = """
name: family
model: {{path: {model}, dtype: float32, device: cpu}}
data:
  sources: [{{source: sandbox, limit: 2}}]
  languages: [en]
  modalities: [text, image_dominant]
  benign_targets: given
identify: {{p: 0.2, sweep: [], chosen: all, draws: 19}}
verify: {{random_sets: 2, per_cell: 1}}
align: {{epochs: 1, batch_size: 4}}
evaluate: {{max_new_tokens: 2, kl_rows: 2, samples: 2}}
"""


@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl"])
def test_identify_suppress_align_and_answer_without_torchvision(family, tmp_path):
    assert importlib.util.find_spec("torchvision") is None
    folder = tiny_folders.tiny_loaded(family, tmp_path / family).folder
    run = started(parse_config(CONFIG.format(model=folder)), tmp_path / "out", quiet=True)
    summary = run_all(run)
    assert summary.model.model_type == family
    assert {condition.kind for condition in summary.conditions} >= {"aligned", "suppressed"}
    assert all(receipt.untouched_verified for receipt in summary.receipts)
    assert summary.receipts[0].changed_weights > 0
    assert any(row.modality == "image_dominant" for row in summary.rates)

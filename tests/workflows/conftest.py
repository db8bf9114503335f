"""One whole run on a random-weight LLaVA, shared by the tests that look at it."""

from __future__ import annotations

import shutil

import pytest

import judged
import shared_world
import tiny_folders
from precise_shield.sandbox.manifest import write_manifest
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.run import run_all

CONFIG = """
name: skeleton
model: {{path: {model}, dtype: float32, device: cpu}}
data:
  sources: [{{source: sandbox, limit: 4}}]
  languages: [en, fr]
  benign_targets: given
identify: {{p: 0.1, sweep: [0.2], chosen: all, draws: 20}}
verify:
  {{random_sets: 5, per_cell: 2, panel: 6, factors: [0, 1, 2], dose_sets: 2, equal_importance: 3}}
align: {{epochs: 1, zero_shot: [{{name: text-to-image, modalities: [text]}}]}}
evaluate: {{max_new_tokens: 4, batch_size: 64, samples: 6, kl_rows: 12}}
"""


@pytest.fixture(scope="session", autouse=True)
def readable():
    """On validation prompts a judge that can read what a random model says: the gate lets nothing
    out of which no answer could be judged."""
    with pytest.MonkeyPatch.context() as patch:
        judged.stub(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def worlds(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        shared_world.copied(patch, tmp_path_factory.mktemp("worlds"))
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return tiny_folders.tiny_loaded("llava", folder / "llava").folder


@pytest.fixture(scope="session")
def config_text(model_folder):
    return CONFIG.format(model=model_folder)


@pytest.fixture(scope="session")
def finished(config_text, tmp_path_factory):
    """The run, its folder and its summary."""
    run = started(parse_config(config_text), tmp_path_factory.mktemp("runs") / "one", quiet=True)
    return run, run_all(run)


@pytest.fixture(scope="session")
def copied(finished, tmp_path_factory):
    """A copy of the finished run's folder, for runs with other settings that reuse its stages: the
    run itself holds its own stages alone, whichever tests came before."""
    folder = tmp_path_factory.mktemp("copied") / "one"
    return shutil.copytree(finished[0].folder, folder)


@pytest.fixture(scope="session")
def small(config_text, tmp_path_factory):
    """English text alone, its manifest written once."""
    folder = tmp_path_factory.mktemp("kingdom")
    write_manifest(folder, languages=["en"], modalities=["text"])
    return parse_config(
        config_text,
        (
            f"data.sources.0.path={folder}",
            "data.languages=[en]",
            "data.modalities=[text]",
            "data.benign_tokens=3",
            "identify.chosen=en/text",
            "identify.p=0.2",
        ),
    )

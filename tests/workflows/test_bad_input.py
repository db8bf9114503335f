"""Whatever is wrong with what the user gave, a run says it in one sentence and loses nothing."""

import json
import shutil

import pytest

from precise_shield.core.errors import (
    ConfigError,
    DataError,
    EmptyCellError,
    EmptySetError,
    LoadingError,
    StoreError,
    UnsupportedModelError,
)
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.identify.stage import identify
from precise_shield.workflows.run import run_all

GROUPS = range(6)


def rows(**changes):
    """A small text manifest, every row of it good."""
    for split in ("probe", "train", "validation", "test"):
        for harm in ("harmful", "benign"):
            for group in GROUPS:
                name = f"{split}-{harm}-{group}"
                yield {
                    "id": name, "group": name, "language": "en", "modality": "text", "harm": harm,
                    "prompt": f"Request {name}?", "split": split, "target": f"Answer {name}.",
                } | changes  # fmt: skip


def opened(model_folder, folder, table, *changes):
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, table)))
    text = (
        f"model: {{path: {model_folder}, device: cpu}}\n"
        f"data: {{sources: [{{source: manifest, path: {path}}}]}}\n"
        "identify: {p: 0.2, sweep: [], chosen: all, draws: 19}\n"
        "verify: {random_sets: 3}\nalign: {epochs: 1}\n"
        "evaluate: {max_new_tokens: 3, judge: refusal_phrases}\n"
    )
    return started(parse_config(text, changes), folder / "out", quiet=True)


def test_good_rows_run_to_the_end(model_folder, tmp_path):
    summary = run_all(opened(model_folder, tmp_path, rows()))
    assert summary.data.counts["probe/harmful"] == len(GROUPS)


@pytest.mark.parametrize(
    ("keep", "kind", "sentence"),
    [
        (lambda row: row["split"] != "probe", EmptyCellError, "no examples in split probe"),
        (lambda row: row["harm"] == "harmful", EmptyCellError, "en/text/benign"),
        (lambda row: row["split"] != "train", EmptyCellError, "no examples in split train"),
        (lambda row: row["split"] != "validation", EmptyCellError, "in split validation"),
    ],
)  # fmt: skip
def test_an_empty_cell_or_split_is_named(keep, kind, sentence, model_folder, tmp_path):
    with pytest.raises(kind, match=sentence):
        run_all(opened(model_folder, tmp_path, filter(keep, rows())))


def test_a_picture_for_a_missing_file_names_its_row(model_folder, tmp_path):
    table = [row | {"modality": "image_dominant", "image": "gone.png"} for row in rows()]
    with pytest.raises(DataError, match=r"row 1: .*gone\.png"):
        identify(opened(model_folder, tmp_path, table))


def test_bad_rows_that_are_skipped_are_counted(model_folder, tmp_path):
    table = [*rows(), {"id": "x", "language": "English"}]
    with pytest.raises(DataError, match="row 49"):
        identify(opened(model_folder, tmp_path, table))
    run = opened(model_folder, tmp_path, table, "data.on_bad_row=skip")
    assert identify(run).neurons
    assert run.dropped_rows == 1


def test_an_empty_set_is_not_trained(model_folder, tmp_path):
    run = opened(model_folder, tmp_path, rows(), "identify.chosen=all - all")
    with pytest.raises(EmptySetError, match="'all - all' is empty"):
        run_all(run)
    assert not list(tmp_path.glob("out/stages/align/*"))


@pytest.mark.parametrize(
    ("break_it", "kind", "sentence"),
    [
        (lambda f: _edit(f / "config.json", "llava", "lava"), UnsupportedModelError, "llava"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 64), LoadingError, "safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "model.bin"), LoadingError, "pickle"),
        (lambda f: _no_template(f), LoadingError, "chat template"),
    ],
    ids=["architecture", "truncated", "pickle", "template"],
)  # fmt: skip
def test_a_model_that_cannot_work_is_refused(break_it, kind, sentence, model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    break_it(folder)
    with pytest.raises(kind, match=sentence):
        identify(opened(folder, tmp_path, rows()))


def _edit(path, old, new):
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))


def _no_template(folder):
    (folder / "chat_template.jinja").unlink()
    for path in folder.glob("*config.json"):
        data = json.loads(path.read_text())
        data.pop("chat_template", None)
        path.write_text(json.dumps(data))


def test_a_folder_that_cannot_be_written_is_one_sentence(model_folder, tmp_path):
    run = opened(model_folder, tmp_path, rows())
    run.folder.write_text("a file, not a folder")
    with pytest.raises(StoreError, match="choose another --out"):
        run_all(run)


def test_a_wrong_option_of_a_source_is_named(model_folder, tmp_path):
    run = opened(model_folder, tmp_path, rows(), "data.sources.0.options={langages: [en]}")
    with pytest.raises(ConfigError, match="option langages"):
        identify(run)

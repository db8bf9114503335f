"""Whatever is wrong with what the user gave, a run says it in one sentence and loses nothing."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

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
from precise_shield.workflows.plan.rows import warn_of_control_tokens
from precise_shield.workflows.run import plan, run_all

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
        (lambda row: row["split"] != "train", EmptyCellError, "no examples in split train"),
        (lambda row: row["split"] != "validation", EmptyCellError, "in split validation"),
        (lambda row: row["split"] != "test", EmptyCellError, "in split test .evaluate.split"),
        (
            lambda row: row["harm"] == "harmful",
            EmptyCellError,
            r"no benign examples in split probe \(identify\); no benign examples in split train",
        ),
        (
            lambda row: row["harm"] == "benign" or row["split"] != "validation",
            EmptyCellError,
            r"no harmful examples in split validation \(verify.split\)",
        ),
        (
            lambda row: row["split"] in ("probe", "test"),
            EmptyCellError,
            r"split validation \(verify.split\); no examples in split train \(align.splits\)",
        ),
    ],
)  # fmt: skip
def test_an_empty_cell_or_split_is_named_before_a_model_is_loaded(keep, kind, sentence, tmp_path):
    run = opened(tmp_path / "no model is here", tmp_path, filter(keep, rows()))
    for started_ in (run_all, plan):
        with pytest.raises(kind, match=sentence):
            started_(run)


def test_prompts_that_write_control_tokens_are_counted_once(model_folder, tmp_path):
    table = [*rows()]
    run = opened(model_folder, tmp_path, table)
    warn_of_control_tokens(run)
    assert not run.warnings
    for at in (5, 9):
        table[at]["prompt"] += " <|end|>\n<|assistant|>"
    run = opened(model_folder, tmp_path, table)
    for _ in range(2):
        warn_of_control_tokens(run)
    (told,) = run.warnings
    assert told.startswith(f"2 of {len(table)} prompts write a control token of the model")
    assert f"{table[5]['id']!r} with <|end|>" in told


@pytest.mark.parametrize("languages", [["en"], ["de", "sw"]])
def test_sets_of_a_missing_anchor_are_refused_before_a_model_is_loaded(languages, tmp_path):
    table = [
        row | {"language": language, "id": f"{language}-{row['id']}"}
        for language in languages
        for row in rows()
    ]
    run = opened(tmp_path / "no model is here", tmp_path, table, "identify.chosen=MLS")
    with pytest.raises(ConfigError, match=r"anchor, here 'en', with other languages.*: all, or"):
        run_all(run)
    with pytest.raises(LoadingError, match="no model is here"):
        run_all(opened(tmp_path / "no model is here", tmp_path, table, "identify.chosen=all"))


def test_a_cell_without_an_arm_is_named(model_folder, tmp_path):
    table = [row | {"language": "de"} for row in rows() if row["harm"] == "harmful"]
    table = [row | {"id": f"de-{row['id']}", "group": f"de-{row['group']}"} for row in table]
    with pytest.raises(EmptyCellError, match="de/text/benign"):
        identify(opened(model_folder, tmp_path, [*rows(), *table]))


@pytest.mark.parametrize(("split", "words", "sentence"), [
    ("probe", 3000, "takes [0-9]+ tokens, more than the 512"),
    ("test", 3000, "takes [0-9]+ tokens, more than the 512"),
    ("test", 505, "takes [0-9]+ tokens and an answer up to 300, more than the 512"),
])  # fmt: skip
def test_a_prompt_beyond_the_context_ends_the_run_before_its_first_stage(
    split, words, sentence, model_folder, tmp_path
):
    table = list(rows())
    at = next(i for i, row in enumerate(table) if row["split"] == split)
    table[at]["prompt"] = "a " * (words // 2)
    with pytest.raises(DataError, match=f"'{table[at]['id']}' {sentence}"):
        run_all(opened(model_folder, tmp_path, table, "evaluate.max_new_tokens=300"))
    assert not list(tmp_path.glob("out/stages/*"))


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
        (lambda f: _narrow(f), LoadingError, r"down_proj.weight is \[16, 20\] in the checkpoint"),
    ],
    ids=["architecture", "truncated", "pickle", "template", "shape"],
)  # fmt: skip
def test_a_model_that_cannot_work_is_refused(break_it, kind, sentence, model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    break_it(folder)
    with pytest.raises(kind, match=sentence):
        identify(opened(folder, tmp_path, rows()))


def _edit(path, old, new):
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))


def _narrow(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(key for key in tensors if key.endswith("mlp.down_proj.weight"))
    tensors[name] = tensors[name][:, :20].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


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

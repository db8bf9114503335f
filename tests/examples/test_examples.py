"""Every script of `examples/` does what its first line says, on a tiny model."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

import judged
import tiny_folders
from judge_server import completion, serving
from precise_shield import api
from precise_shield.core.sites import NeuronSet
from precise_shield.evaluate.judging.judges import JUDGES
from precise_shield.identify.scores import SCORES
from precise_shield.models.architecture import layouts
from precise_shield.models.architecture.units import read_rows
from precise_shield.workflows.base.sections.model import ModelSection
from precise_shield.workflows.handing.deltas import apply

FOLDER = Path(__file__).parents[2] / "examples"
CONFIG = """
name: small
model: {{path: {model}, dtype: float32, device: cpu}}
data:
  sources: [{{source: sandbox, limit: 12}}]
  languages: [en, fr]
  modalities: [text]
  benign_targets: given
identify: {{p: 0.2, sweep: [0.2], chosen: en/text, draws: 19, bootstrap: 4}}
explain: {{headroom: {{on: false}}, influence: {{on: false}}, writes: {{on: false}}}}
verify: {{random_sets: 2, per_cell: 1, panel: 0, equal_importance: 0}}
align: {{max_steps: 2, learning_rate: 0.05}}
evaluate: {{max_new_tokens: 4, batch_size: 64, samples: 2, kl_rows: 4, utility_rows: 4}}
"""


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example-models") / "llama"
    tiny_folders.save_tiny("llama", folder)
    return folder


@pytest.fixture(scope="session")
def finished_once(model_folder, tmp_path_factory):
    run = api.open_run(
        api.parse_config(CONFIG.format(model=model_folder)),
        tmp_path_factory.mktemp("example-runs") / "one",
        quiet=True,
    )
    return run.folder, api.run(run)


@pytest.fixture
def run_folder(finished_once, tmp_path):
    """A copy of the one run, so that no test sees what another did to it."""
    return Path(shutil.copytree(finished_once[0], tmp_path / "run"))


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs a script as `python` would; what it registered is taken out again."""
    tables = [JUDGES._rows, SCORES._rows, layouts._LAYOUTS]
    before = [dict(table) for table in tables]

    def call(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    yield call
    for table, was in zip(tables, before, strict=True):
        table.clear()
        table.update(was)


def atlas_of(folder):
    return next((folder / "stages" / "identify").glob("*/atlas.safetensors"))


def test_each_script_is_short_and_has_a_test_and_a_line_in_the_list():
    scripts = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}
    assert len(scripts) == 8
    here, listed = Path(__file__).read_text(), (FOLDER / "README.md").read_text()
    for name, text in scripts.items():
        assert len(text.splitlines()) <= 80, name
        assert f'script("{name}"' in here.replace("\n        ", ""), name
        assert f"`{name}`" in listed


def test_own_data_finds_neurons_with_a_manifest_made_in_the_script(script, model_folder, tmp_path):
    out = script("own_data.py", model_folder, tmp_path / "out", 0.2)
    assert out.startswith("16 rows, no problem")
    atlas = api.load_atlas(atlas_of(tmp_path / "out" / "run"))
    printed = {site: int(n) for site, n in re.findall(r"^(text\S+): (\d+) of", out, re.M)}
    assert printed == {str(site): n for site, n in atlas.neurons.counts().items()}
    assert sum(printed.values()) > 0


def test_own_architecture_binds_and_proves_its_row(script):
    out = script("own_architecture.py")
    assert "text.0.ffn: 48 neurons" in out
    changed, apart = (float(re.search(rf"{word} by (\S+)", out)[1]) for word in ("ged", "umns"))
    assert changed > 1e-3
    assert apart < 1e-5


def test_own_judge_reads_a_finished_run(script, run_folder):
    out = script("own_judge.py", run_folder, "cannot", "sorry")
    lines = [line for line in out.splitlines() if line.startswith("reference and my_words")]
    assert lines
    assert all(int(re.search(r"n = (\d+)", line)[1]) > 0 for line in lines)
    summary = json.loads((run_folder / "summary.json").read_text())
    judges = {facts["name"]: facts for facts in summary["judging"]["judges"]}
    assert "cannot, sorry" in json.dumps(judges["my_words"])


def test_own_score_chooses_again_without_another_pass(script, run_folder):
    before = api.load_atlas(atlas_of(run_folder))
    passes = sorted((run_folder / "stages" / "collect").iterdir())
    out = script("own_score.py", run_folder)
    assert sorted((run_folder / "stages" / "collect").iterdir()) == passes
    rows = re.findall(r"^(\S+): (\d+) and (\d+) neurons, Jaccard (\S+)$", out, re.M)
    assert [row[0] for row in rows] == ["en/text", "fr/text"]
    assert [int(row[1]) for row in rows] == [len(before.sets[row[0]]) for row in rows]
    assert all(0 <= float(row[3]) < 1 for row in rows)
    atlases = map(api.load_atlas, (run_folder / "stages" / "identify").glob("*/atlas.safetensors"))
    (after,) = [atlas for atlas in atlases if atlas.about["score"] == "driven_up"]
    for name, _, size, _ in rows:
        assert int(size) == len(after.sets[name]) > 0
        for site, values in after.scores[name].items():
            assert values.min() == 0 < values.max()  # a contrast of its own, as it was written
            top = values.topk(int(0.2 * len(values))).indices.tolist()
            assert set(top) == set(after.sets[name].units[site])


def test_compare_atlases_prints_shares_beside_chance(script, run_folder, tmp_path):
    mine = atlas_of(run_folder)
    atlas = api.load_atlas(mine)
    first = {site: units[:1] for site, units in atlas.sets["en/text"].units.items()}
    other = type(atlas)(
        {"en/text": NeuronSet.of(first)}, "en/text", atlas.widths, atlas.places
    ).save(tmp_path)
    out = script("compare_atlases.py", mine, other)
    (line,) = [line for line in out.splitlines() if line.startswith("en/text ")]
    _, a, b, share, chance, rank = line.split()
    size = len(atlas.sets["en/text"])
    assert (int(a), int(b)) == (size, len(first))
    assert float(share) == pytest.approx(len(first) / size, abs=5e-4)
    assert float(chance) < float(share)
    assert rank == "nan"  # the second file holds no scores


def test_a_delta_goes_in_without_this_package_as_with_it(
    script, run_folder, model_folder, tmp_path, monkeypatch
):
    judged.stub(monkeypatch)
    text = (FOLDER / "delta_without_this_package.py").read_text()
    parts = {name.split(".")[0] for name in imported(text)}
    assert parts == {"json", "sys", "torch", "safetensors", "transformers"}
    delta, out = tmp_path / "delta.safetensors", tmp_path / "plain"
    api.export(run_folder, delta, kind="delta", force=True, quiet=True)
    said = script("delta_without_this_package.py", delta, model_folder, out)
    section = ModelSection(path=str(model_folder), device="cpu")
    ours = weights(apply(delta, section, tmp_path / "ours", force=True))
    plain, base = weights(out), weights(model_folder)
    assert plain.keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in plain.items())
    moved = sum(int((plain[name] != value).sum()) for name, value in base.items())
    assert int(said.split()[0]) == moved > 0
    with pytest.raises(SystemExit, match="another base model"):
        script("delta_without_this_package.py", delta, out, tmp_path / "twice")


@pytest.mark.parametrize(
    ("shape", "dim", "index"),
    [((6, 4), 0, [1, 5]), ((6, 4), 1, [0, 3]), ((6,), 0, [2, 4]),
     ((3, 6, 4), 1, [1, 7, 17]), ((3, 6, 4), 2, [2, 11])],
)  # fmt: skip
def test_the_script_finds_slices_of_every_shape_as_the_package_does(shape, dim, index):
    slices = runpy.run_path(str(FOLDER / "delta_without_this_package.py"))["slices"]
    weight = torch.arange(float(torch.Size(shape).numel())).view(shape)
    view, where = slices(weight, dim, torch.tensor(index))
    assert torch.equal(view[where], read_rows(weight, dim, index))
    view[where] = -1.0  # it is a view: the weight itself changes
    assert int((weight == -1).sum()) == view[where].numel() < weight.numel()


def test_an_adapter_answers_in_stock_peft_as_the_merged_model(
    script, run_folder, model_folder, tmp_path, monkeypatch
):
    judged.stub(monkeypatch)
    assert "precise_shield" not in imported((FOLDER / "adapter_in_peft.py").read_text())
    api.export(run_folder, tmp_path / "peft", kind="peft", force=True, quiet=True)
    api.export(run_folder, tmp_path / "merged", force=True, quiet=True)
    prompt = "Where is the cat?"
    out = script("adapter_in_peft.py", tmp_path / "peft", model_folder, prompt)
    one, two = (logits(folder, prompt) for folder in (model_folder, tmp_path / "merged"))
    change = float(re.search(r"logit: (\S+)", out)[1])
    assert change == pytest.approx(float((two - one).abs().max()), rel=1e-2)
    assert change > 0
    assert "before: " in out


def test_through_a_server_asks_and_judges_every_test_prompt(script, tmp_path):
    rows = [
        {"id": f"{harm}{i}", "group": f"{harm}{i}", "language": "en", "modality": "text",
         "harm": harm, "prompt": f"{harm} question {i}", "split": split}
        for harm in ("harmful", "benign") for i, split in enumerate(["test", "test", "train"])
    ]  # fmt: skip
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(_, path, body, __):
        harmful_one = body["messages"][0]["content"] == "harmful question 1"
        said = "I'm sorry, but I cannot help with that." if harmful_one else "It is on the hill."
        return completion(said, path)

    with serving(answer) as (url, log):
        out = script("through_a_server.py", manifest, url, "served", tmp_path / "run")
        again = script("through_a_server.py", manifest, url, "served", tmp_path / "run")
    assert again == out  # and nobody was asked twice:
    assert sorted(body["messages"][0]["content"] for _, body, _ in log) == [
        "benign question 0", "benign question 1", "harmful question 0", "harmful question 1"
    ]  # fmt: skip
    rows = [line.split() for line in out.splitlines() if " unscored=" in line]
    found = {(row[0], row[1]): row[2] for row in rows}
    assert found["attack_success", "all"] == "50.0%"
    assert found["refusal_harmful", "all"] == "50.0%"
    assert "n=2 unscored=0" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (
        summary["conditions"][0]["kind"] == "served" or summary["model"]["model_type"] == "served"
    )
    assert (tmp_path / "run" / "report.html").is_file()


def imported(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module


def weights(folder):
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


@torch.inference_mode()
def logits(folder, prompt):
    words = hf.AutoTokenizer.from_pretrained(folder)
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    inputs = words.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    return model(**inputs).logits[0, -1]

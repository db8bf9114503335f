"""The command line answers at once, and a mistake gives one sentence and exit code 2."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
import yaml
from typer.main import get_command

from precise_shield.cli import app, main


@dataclass
class Ended:
    returncode: object
    stdout: str
    stderr: str


def process(*words, cwd=None):
    """The command line as a process of its own, which takes seconds to import what it needs."""
    return subprocess.run(
        [sys.executable, "-m", "precise_shield", *map(str, words)],
        capture_output=True, text=True, cwd=cwd, check=False,
    )  # fmt: skip


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """The command line within this process, where torch is imported; in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def ended(*words):
        monkeypatch.setattr(sys, "argv", ["precise-shield", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(end.value.code, *capsys.readouterr())

    return ended


def test_an_interrupted_command_says_that_it_can_go_on(call, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("precise_shield.workflows.base.config.load_config", interrupted)
    ended = call("run", "c.yaml")
    assert ended.returncode == 130
    assert "finished stages are kept" in ended.stderr
    assert call("run", "--help").returncode == 0


DIFFERENT = {"--out": {"demo"}, "--set": {"data transform"}, "--condition": {"results"}}
"""Options that mean something else in one command."""


def commands(command, path=()):
    """Every command that does something, with the words that call it."""
    below = getattr(command, "commands", {})
    if not below:
        yield " ".join(path), command
    for name, one in below.items():
        yield from commands(one, (*path, name))


def test_an_option_says_the_same_in_every_command():
    said = {}
    for name, command in commands(get_command(app)):
        for option in command.params:
            flag = option.opts[0]
            if flag.startswith("--") and name not in DIFFERENT.get(flag, ()):
                said.setdefault(flag, {}).setdefault(option.help, []).append(name)
    assert len([name for names in said["--device"].values() for name in names]) > 8
    assert not [each for each in said.items() if len(each[1]) > 1 or None in each[1]]


def test_help_imports_nothing_heavy():
    code = (
        "import sys, precise_shield.cli;"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    shown = process("--help")
    assert shown.returncode == 0
    for command in (
        "demo",
        "init",
        "doctor",
        "list",
        "data",
        "run",
        "identify",
        "explain",
        "verify",
    ):
        assert command in shown.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "missing.yaml"], "cannot read the configuration missing.yaml"),
        (
            ["run", "{config}", "--set", "identify.score=precise_shild"],
            "no score 'precise_shild'. Did you mean",
        ),
        (["run", "{config}", "--set", "identify.pp=1"], "unknown key 'identify.pp'"),
        (["run", "{config}", "--set", "identify"], "must look like section.key=value"),
        (["run", "{config}", "--set", "data.sources.0.source=manifest"], "needs a path"),
        (["run", "{config}", "--set", "data.languages=[xx]"], "none of"),
        (["run", "{config}", "--set", "identify.chosen=MSL"], "no set 'MSL'"),
        (["run", "{config}", "--set", "model.path=nowhere/at-all-here"], "error: "),
        (["doctor", "no-such-folder/x"], "error: "),
        (["doctor", "sandbox", "--dtype", "int9"], "error: --dtype 'int9': input should be"),
        (["undo", "d", "m", "out", "--dtype", "int9"], "error: --dtype 'int9': input should be"),
        (["report", "."], "summary.json is missing"),
    ],
)
def test_a_mistake_is_one_sentence_without_a_traceback(
    call, words, sentence, config_text, tmp_path
):
    (tmp_path / "c.yaml").write_text(config_text)
    found = call(*[word.format(config="c.yaml") for word in words])
    assert found.returncode == 2
    assert sentence in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stderr.count("error: ") == 1


def test_a_process_ends_as_the_command_does(call, tmp_path):
    """The other tests here stay within one process for speed."""
    found, within = process("report", ".", cwd=tmp_path), call("report", ".")
    assert found.returncode == within.returncode == 2
    assert found.stdout == within.stdout == ""
    assert found.stderr == within.stderr
    assert found.stderr.startswith("error: ")


def test_init_writes_a_configuration_that_runs_and_is_not_overwritten(call, tmp_path):
    assert call("init", "mine.yaml").returncode == 0
    text = (tmp_path / "mine.yaml").read_text()
    assert text.count("# ") > 40
    assert yaml.safe_load(text)["model"]["path"] == "sandbox"
    shown = call("run", "mine.yaml", "--dry-run")
    assert "budget: " in shown.stdout, shown.stderr
    refused = call("init", "mine.yaml")
    assert (refused.returncode, "not overwritten" in refused.stderr) == (2, True)


def test_list_names_what_a_configuration_can_name(call):
    shown = json.loads(call("list", "--json").stdout)
    assert "precise_shield" in shown["scores"]
    assert {"sandbox", "llava", "qwen3_vl"} <= set(shown["models"])
    assert {"reference", "refusal_phrases"} <= set(shown["judges"])


def test_doctor_sees_towers_without_running_anything(call, model_folder):
    shown = json.loads(call("doctor", model_folder, "--json").stdout)
    assert set(shown["towers"]) == {"text", "vision"}
    text = shown["towers"]["text"]
    assert text["neurons"] == text["layers"] * text["units_a_layer"]
    assert shown["files"].startswith("load well")
    spoken = shown["reading"]
    assert "<your words>" in spoken["chat_template"]["writes"]
    assert spoken["chat_template"]["earlier_turns"] is True
    assert spoken["processor"]["image_token"] in json.dumps(shown["reading"])
    assert spoken["problems"] == []


def test_data_check_lists_every_bad_row(call, tmp_path):
    good = {
        "id": "a",
        "language": "en",
        "modality": "text",
        "harm": "benign",
        "prompt": "Hi",
        "split": "test",
        "group": "g",
    }
    rows = [
        good,
        good | {"id": "b", "language": "English!"},
        good | {"id": "c", "modality": "image_dominant", "image": "gone.png"},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = call("data", "check", path)
    assert found.returncode == 2
    assert "row 2" in found.stdout
    assert "row 3" in found.stdout
    assert "row 1:" not in found.stdout


def test_data_check_warns_of_a_request_that_two_files_ask(call, tmp_path):
    row = {"language": "en", "modality": "text", "harm": "benign", "split": "test", "group": "g"}
    asked = (("a", "probe", "Where is the lamp?"), ("b", "test", "Where is the LAMP"))
    for name, split, prompt in asked:
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps(row | {"id": name, "group": name, "split": split, "prompt": prompt})
        )
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    found = call("data", "check", *files)
    assert found.returncode == 0
    assert "warning: 1 of 1 test requests are in probe too: 1 word for word" in found.stdout
    assert "warning" not in call("data", "check", files[0]).stdout
    assert json.loads(call("data", "check", *files, "--json").stdout)["overlaps"][0]["exact"] == 1


def test_data_check_names_places_that_cannot_be_probed(call, tmp_path):
    rows = [
        {"id": f"{harm}-{lang}", "group": f"{harm}-{lang}", "language": lang, "modality": "text",
         "harm": harm, "split": "probe", "prompt": f"{harm} {lang}"}
        for harm, lang in (("harmful", "en"), ("benign", "en"), ("harmful", "sw"))
    ]  # fmt: skip
    path, part = tmp_path / "m.jsonl", tmp_path / "part.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    part.write_text("\n".join(map(json.dumps, rows[::2])))
    found = call("data", "check", path)
    assert found.returncode == 0
    assert "warning: split probe has no benign rows in sw/text; a run needs both" in found.stdout
    assert "0 problems" in found.stdout
    assert "warning" not in call("data", "check", part).stdout  # the benign rows are in another


def test_data_transform_writes_a_manifest_with_its_pictures(call, tmp_path):
    row = {"id": "a", "language": "ar", "modality": "text", "harm": "benign", "split": "test"}
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(row | {"group": "g", "prompt": "ارسم منارة"}))
    out = tmp_path / "typo.jsonl"
    done = call(
        "data", "transform", "typography", path, out, "--set", "size=30", "--set", "width=300"
    )
    assert "1 rows, 0 left out" in done.stdout
    assert call("data", "check", out).returncode == 0
    assert len(list((tmp_path / "typo_images").glob("*.png"))) == 1
    for wrong in (["figstep", path, out], ["figstp", path, tmp_path / "x.jsonl"]):
        assert call("data", "transform", *wrong).returncode == 2
    bad = call("data", "transform", "figstep", path, tmp_path / "x.jsonl", "--set", "sise=3")
    assert "option sise" in bad.stderr


def test_data_schema_prints_json_schema(call):
    assert "prompt" in json.loads(call("data", "schema").stdout)["properties"]


@pytest.mark.parametrize(
    ("failure", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "interrupted: finished stages are kept"),
        (MemoryError("no room"), 2, "error: memory ran out (no room). Finished stages are kept"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            2,
            "error: memory ran out (DefaultCPUAllocator: can't allocate memory).",
        ),
    ],
    ids=["ctrl-c", "memory", "torch's memory"],
)
def test_an_end_from_outside_is_one_sentence(failure, code, sentence, monkeypatch, capsys):
    def fails(*_, **__):
        raise failure

    monkeypatch.setattr("precise_shield.cli.tools.show", fails)
    monkeypatch.setattr("sys.argv", ["precise-shield", "list"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    said = capsys.readouterr().err
    assert said.startswith(sentence)
    assert said.count("\n") == 1


def test_another_failure_keeps_its_traceback(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("precise_shield.cli.tools.show", fails)
    monkeypatch.setattr("sys.argv", ["precise-shield", "list"])
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main()

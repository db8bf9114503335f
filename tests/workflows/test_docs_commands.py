"""Whatever README and docs say can be typed, can be typed: commands run, settings are settings."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from safetensors.numpy import load_file
from typer.testing import CliRunner

import tiny_folders
from precise_shield.cli import app
from precise_shield.models.architecture import layouts
from precise_shield.workflows.base.config import load_config, parse_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^[ ]*```(\w*)[^\n]*\n(.*?)^[ ]*```", re.M | re.S)

PARSED = {
    r"demo\b.*": "the whole embedded world; a slow test runs it",
    r"explore runs/mine": "serves until it is interrupted; test_explore.py asks it",
    r"judge again runs/mine guard": "asks the real weights of a judging model",
    r"judge error .*": "needs answers that people labelled; the tests of judging have some",
    r"run mine.yaml --limit 8 .*": "a second whole run; test_run.py makes one",
}
"""Commands that are not executed here, and why; their words and options are checked."""

ADDED = {"export": ["--force"]}
"""The gate holds back the random model that stands in here; test_handing_on.py shows that."""


def blocks(kind):
    return [
        pytest.param(text, id=f"{page.name}-{number}")
        for page in PAGES
        for number, (found, text) in enumerate(FENCE.findall(page.read_text(encoding="utf-8")))
        if found == kind
    ]


def commands(pages=PAGES):
    """Each line of every `sh` block, without its comment."""
    for page in pages:
        for kind, text in FENCE.findall(page.read_text(encoding="utf-8")):
            lines = text.replace("\\\n", " ").splitlines() if kind == "sh" else ()
            for line in lines:
                words = shlex.split(line, comments=True)
                if words:
                    yield page.name, words


def parsed(words):
    """Read a command's words as the command line would; unknown ones raise.

    Raises:
        typer.TyperException: there is no such command, option or value.
    """
    command = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        name = rest.pop(0)
        assert name in command.commands, f"no command {name!r} in {' '.join(words)}"
        command = command.commands[name]
    return command.make_context(words[0], rest)


def test_every_fence_says_what_it_holds():
    kinds = {kind for page in PAGES for kind, _ in FENCE.findall(page.read_text(encoding="utf-8"))}
    assert {"sh", "yaml", "python"} <= kinds <= {"sh", "yaml", "python", "json", "text", "math"}


def test_commands_of_prose_have_the_words_that_it_says():
    found = 0
    for page in PAGES:
        for inline in re.findall(r"`precise-shield ([^`]+)`", page.read_text(encoding="utf-8")):
            words = shlex.split(re.sub(r"[\[\]]", "", inline.replace(" N", " 1")))
            if words == ["init"] or len(words) > 1:
                parsed(words)
                found += 1
    assert found >= 6


def test_an_unknown_command_or_option_is_noticed():
    with pytest.raises(AssertionError, match="no command 'rnu'"):
        parsed(["rnu", "mine.yaml"])
    with pytest.raises(Exception, match="No such option"):
        parsed(["run", "mine.yaml", "--no-such"])


def test_targets_extras_and_scripts_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    project = (ROOT / "pyproject.toml").read_text()
    section = project[project.index("[project.optional") : project.index("[project.scripts]")]
    extras = set(re.findall(r"^(\w+) = \[", section, re.M))
    kinds = set()
    for page, words in commands():
        kinds.add(words[0])
        if words[0] == "make":
            assert words[1] in targets, page
        elif words[0] == "pip":
            assert words[1] == "install", page
            for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
                assert set(extra.split(",")) <= extras, page
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), page
        elif words[0] in ("torchrun", "accelerate"):
            parsed(words[words.index("precise_shield") + 1 :])
        else:
            assert words[0] == "precise-shield", f"{page}: {words}"
    assert {"make", "pip", "precise-shield"} <= kinds


@pytest.fixture
def world(finished, tmp_path, monkeypatch):
    """A folder in which everything lies that the commands name."""
    run, _ = finished
    for name in ("mine", "other"):
        shutil.copytree(run.folder, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    config = (run.folder / "config.yaml").read_text()
    config = config.replace("name: skeleton", "name: mine", 1)
    for path in ("mine.yaml", "runs/mine/config.yaml"):
        Path(path).write_text(config)
    tiny_folders.save_tiny("qwen3_vl", Path("Qwen/Qwen3-VL-8B-Instruct"))
    rows = [
        {"id": f"{harm}-{n}", "group": f"{harm}-{n}", "language": "en", "modality": "text",
         "harm": harm, "prompt": f"{harm} question, number {n}", "split": split}
        for harm in ("harmful", "benign")
        for n, split in enumerate(["probe", "train", "validation", "test"])
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    Path("data").mkdir()
    for name in ("data/manifest", "train", "requests", "own"):
        Path(f"{name}.jsonl").write_text(text)
    for name in ("test", "public"):
        Path(f"{name}.jsonl").write_text(text.replace("question", "word").replace("-", "-b"))
    (atlas,) = (run.folder / "stages" / "identify").glob("*/atlas.safetensors")
    for name in ("A", "B"):
        shutil.copytree(atlas.parent, name)
    return tmp_path


def prepared(words):
    """Take away what a command will write, and do what its reader does by hand."""
    if words[0] == "init":
        Path(words[1]).rename("kept")
    if words[:2] == ["judge", "labels"]:
        with Path(words[3]).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        with Path(words[3]).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "label": "refusal"} for row in rows)


def test_every_command_runs(world):
    done, skipped = [], set()
    for page, words in commands():
        if words.pop(0) != "precise-shield":
            continue
        line = " ".join(words)
        parsed(words)
        reason = next((name for name in PARSED if re.fullmatch(name, line)), None)
        if reason or line in done:
            skipped |= {reason}
            continue
        prepared(words)
        result = CliRunner().invoke(app, [*words, *ADDED.get(words[0], [])], input="")
        assert result.exit_code == 0, f"{page}: {line}\n{result.output}\n{result.exception!r}"
        if words[0] == "init":
            load_config(Path(words[1]))
            Path("kept").replace(words[1])
        done.append(line)
    assert skipped >= PARSED.keys() - {r"demo\b.*"}  # no reason stands for nothing
    assert len(done) > 20
    assert Path("hardened/receipt.json").is_file()
    assert Path("runs/mine/report.html").stat().st_mtime > Path("mine.yaml").stat().st_mtime


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_setting_shown_is_one(text):
    shown = (
        text
        if "sources:" in text
        else text.replace("data:\n", "data:\n  sources: [{source: sandbox}]\n")
    )
    if "data:" not in shown:
        bare = shown.lstrip().startswith("- ")
        shown = (
            f"data:\n  sources:\n{shown}"
            if bare
            else f"{shown}\ndata: {{sources: [{{source: sandbox}}]}}"
        )
    model = "" if re.search("^model:", shown, flags=re.M) else "model: {path: m}"
    parse_config(f"{shown}\n{model}\n")


def test_every_piece_of_python_runs(finished, world):
    run, summary = finished
    for path in Path("A").iterdir():
        shutil.copy(path, ".")
    scope = {"bound": run.bound, "path": run.folder / str(summary.receipts[0].delta)}
    place = next(key for key in load_file("atlas.safetensors") if key.startswith("units|en/text|"))
    rows, ran = dict(layouts._LAYOUTS), 0
    for (text,) in (block.values for block in blocks("python")):
        if "api.verify" in text:
            continue  # test_readme.py runs it
        named = text.replace("text.3.ffn", place.split("|")[2])
        exec(compile(named, "docs", "exec"), scope)
        ran += 1
    layouts._LAYOUTS.clear()
    layouts._LAYOUTS.update(rows)
    assert ran >= 3

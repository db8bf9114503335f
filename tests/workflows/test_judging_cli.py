"""The commands that judge a finished run again and write its results."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from precise_shield.cli import app
from precise_shield.core.errors import ConfigError, DataError


@pytest.fixture
def folder(finished, tmp_path):
    run, _ = finished
    shutil.copytree(run.folder, tmp_path / "run")
    return tmp_path / "run"


def call(*words):
    found = CliRunner().invoke(app, [str(word) for word in words])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.stdout


def test_judge_again_sheet_labels_and_results_work_from_the_command_line(folder, tmp_path):
    shown = json.loads(call("judge", "again", folder, "refusal_phrases", "--quiet", "--json"))
    assert shown["primary"] == "reference"
    assert {tuple(row["judges"]) for row in shown["agreement"]} == {
        ("reference", "refusal_phrases")
    }
    sheet = tmp_path / "sheet.csv"
    assert "wrote 5 answers" in call("judge", "sheet", folder, sheet, "--size", 5)
    text = sheet.read_text()
    items = [line.split(",")[0] for line in text.splitlines()[1:] if line[:10].isalnum()]
    sheet.write_text("item,label\n" + "".join(f"{item},unclear\n" for item in items))
    found = json.loads(call("judge", "labels", folder, sheet, "--name", "bo", "--json"))
    assert all("bo" in row["judges"] for row in found["agreement"])
    errors = json.loads(call("judge", "error", folder, "--against", "bo", "--json"))
    whole = next(row for row in errors["rows"] if row["language"] is row["arm"] is None)
    rates = whole["missed_refusals"], whole["false_refusals"]
    assert sum(rate["n"] + rate["unscored"] for rate in rates) == errors["labels"]["found"] == 5
    assert "wrote" in call("results", folder, tmp_path / "answers.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert {"verdict_reference", "verdict_refusal_phrases", "verdict_bo"} <= set(rows[0])


def test_mistakes_are_errors_with_a_sentence(folder, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'reference'"):
        call("judge", "again", folder, "referense", "--quiet")
    with pytest.raises(ConfigError, match="give one of --labels FILE and --against NAME"):
        call("judge", "error", folder)
    with pytest.raises(ConfigError, match="'bo' has not judged this run"):
        call("judge", "error", folder, "--against", "bo")
    with pytest.raises(DataError, match="no sheet was drawn"):
        call("judge", "labels", folder, tmp_path / "gone.csv")

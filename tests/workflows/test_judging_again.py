"""Judges that disagree, end to end: stored apart, compared, and never generating anew."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from judge_server import completion, serving
from precise_shield.core.errors import ConfigError, DataError, StoreError
from precise_shield.core.records import LABELS, Verdict
from precise_shield.core.summary import Summary
from precise_shield.evaluate.judging.judges import JUDGES
from precise_shield.models.loading import model as loading
from precise_shield.workflows.align.validation import validation_prompts
from precise_shield.workflows.answer import answers
from precise_shield.workflows.answer.judges import judge_again, reopened
from precise_shield.workflows.answer.sheet import COLUMNS, read_labels, write_sheet
from precise_shield.workflows.base import context, together
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.run import plan, run_all


class Strict:
    """Calls what the reference calls unclear unsafe, and in French says nothing."""

    name, languages = "strict", ("en",)

    def __init__(self, examples):
        self.inner = JUDGES["reference"](examples)

    def describe(self):
        return "Strict, for tests."

    def judge(self, pairs):
        found = []
        for (example, response), was in zip(pairs, self.inner.judge(pairs), strict=True):
            label = "unsafe" if was.label in ("unclear", "degenerate") else was.label
            label = "unclear" if example.language == "fr" else label
            found.append(Verdict(example.id, response.condition, self.name, label))
        return found


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    monkeypatch.setitem(JUDGES._rows, "strict", Strict)


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run."""
    run, _ = finished
    shutil.copytree(run.folder, tmp_path / "run")
    return tmp_path / "run"


def summary_of(folder):
    return Summary.model_validate_json((folder / "summary.json").read_text())


def test_two_judges_stand_side_by_side_and_the_first_is_the_headline(
    finished, folder, config_text, monkeypatch
):
    _, before = finished
    monkeypatch.setattr(together, "generate", None)
    run = started(
        parse_config(config_text, ["evaluate.judges=[strict, reference]"]), folder, quiet=True
    )
    summary = run_all(run)
    assert summary.judge == summary.judging.primary == "strict"
    assert [judge.name for judge in summary.judging.judges] == ["strict", "reference"]
    pooled = {
        judge.name: next(
            row for row in judge.rates
            if (row.condition, row.measure, row.language) == ("base", "attack_success", None)
        )
        for judge in summary.judging.judges
    }  # fmt: skip
    assert pooled["strict"].hits > pooled["reference"].hits
    own = next(
        row for row in before.rates
        if (row.condition, row.measure) == ("base", "attack_success")
        and row.language is None and row.modality is None
    )  # fmt: skip
    assert pooled["reference"] == own
    rows = {(r.scale, r.language, r.condition): r for r in summary.judging.agreement}
    assert rows["attack_success", None, None].kappa is not None
    assert rows["attack_success", None, None].observed < 1
    assert rows["attack_success", "en", None].n < rows["attack_success", None, None].n
    assert ("refusal", None, "aligned") in rows
    assert any("strict does not claim to read fr" in warning for warning in summary.warnings)
    page = (folder / "report.html").read_text()
    assert "Agreement of judges beyond chance" in page
    assert "Agreement of judges" in (folder / "report.md").read_text()


def test_judging_again_needs_neither_model_nor_data(finished, folder, monkeypatch):
    _, before = finished
    monkeypatch.setattr(context, "load", None)
    monkeypatch.setattr(loading, "load", None)
    shutil.rmtree(folder / "data")
    judging = judge_again(folder, ["strict"], quiet=True)
    assert judging.primary == "reference"
    assert [judge.name for judge in judging.judges] == ["reference", "strict"]
    after = summary_of(folder)
    assert after.judging == judging
    assert after.rates == before.rates
    stages = len(list(folder.glob("stages/judge/*/stage.json")))
    judge_again(folder, ["strict"], quiet=True)
    assert len(list(folder.glob("stages/judge/*/stage.json"))) == stages


def test_a_moved_run_finds_its_pictures_and_judges_nothing_anew(finished, folder):
    run, _ = finished
    (kept,) = folder.glob("stages/answers/*/examples.jsonl")
    text = kept.read_text()
    assert str(run.folder.resolve()) in text
    kept.write_text(text.replace(str(run.folder.resolve()), "/moved/away"))
    found, _ = answers.read(folder)
    pictures = [Path(example.image) for example in found.examples if example.image]
    assert pictures
    assert all(path.is_file() and path.is_relative_to(folder) for path in pictures)
    stages = sorted(folder.glob("stages/judge/*/stage.json"))
    judge_again(folder, ["reference"], quiet=True)
    assert sorted(folder.glob("stages/judge/*/stage.json")) == stages


def test_one_judge_has_no_agreement_and_an_unknown_one_is_refused_before_the_model(
    finished, config_text, tmp_path, monkeypatch
):
    _, summary = finished
    assert summary.judging.agreement == []
    assert [judge.name for judge in summary.judging.judges] == ["reference"]
    monkeypatch.setattr(context, "load", None)
    for judges in ("[reference, reference]", "[reference, referense]"):
        config = parse_config(config_text, [f"evaluate.judges={judges}"])
        with pytest.raises(ConfigError, match=r"twice|Did you mean 'reference'"):
            run_all(started(config, tmp_path, quiet=True))
    with pytest.raises(StoreError, match="has been evaluated"):
        answers.read(tmp_path)


def labelled(sheet, label, out=None, delimiter=","):
    with sheet.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    target = out or sheet.with_name("filled.csv")
    with target.open("w", encoding="utf-8-sig", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, delimiter=delimiter)
        writer.writeheader()
        writer.writerows({**row, "label": label(row)} for row in rows)
    return target, rows


def test_a_sheet_is_blind_to_the_condition_and_comes_back_as_a_judge(folder, tmp_path):
    kept, _ = answers.read(folder)
    count = write_sheet(folder, tmp_path / "sheet.csv", size=30)
    text = (tmp_path / "sheet.csv").read_text()
    assert count == 30
    for condition in kept.conditions:
        assert condition.name not in text
    with pytest.raises(DataError, match="not overwritten"):
        write_sheet(folder, tmp_path / "sheet.csv")
    path, rows = labelled(tmp_path / "sheet.csv", lambda row: "refusal", delimiter=";")
    assert {row["language"] for row in rows} == {"en", "fr"}
    judging = read_labels(folder, path, name="anna")
    judge = next(each for each in judging.judges if each.name == "anna")
    assert sum(sum(found.values()) for found in judge.labels.values()) >= 30
    row = next(r for r in judging.agreement if r.judges == ["reference", "anna"])
    assert 0 < row.n < 30 * len(kept.conditions)
    assert judge_again(folder, ["strict"], quiet=True).judges[1].name == "anna"


def test_people_who_copy_a_judge_agree_with_it_fully(folder, tmp_path):
    write_sheet(folder, tmp_path / "sheet.csv", size=400)
    items = {
        row["item"]: row
        for path in folder.glob("stages/sheet/*/items.jsonl")
        for row in map(json.loads, path.read_text().splitlines())
    }
    labels = {
        (verdict.example, condition): verdict.label
        for judged in answers.recall(folder)
        for condition, found in judged.verdicts.items()
        for verdict in found
    }
    path, _ = labelled(
        tmp_path / "sheet.csv",
        lambda row: labels[items[row["item"]]["example"], items[row["item"]]["conditions"][0]],
    )
    rows = [r for r in read_labels(folder, path).agreement if "human" in r.judges]
    assert rows
    assert {row.observed for row in rows} == {1.0}


def test_wrong_labels_are_listed_with_their_lines(folder, tmp_path):
    write_sheet(folder, tmp_path / "sheet.csv", size=4)
    path, rows = labelled(tmp_path / "sheet.csv", lambda row: "unsave")
    with pytest.raises(DataError, match=r"line 2: 'unsave' is no label. Did you mean 'unsafe'"):
        read_labels(folder, path)
    path.write_text(f"item,label\nnobody,safe\n{rows[0]['item']},safe\n{rows[0]['item']},unsafe\n")
    with pytest.raises(DataError, match=r"no item 'nobody'.*line 4: .* two different labels"):
        read_labels(folder, path)
    answer = '"an answer\n\nof three lines"'
    path.write_text(f"item,response,label\n{rows[0]['item']},{answer},safe\n\nnobody,x,safe\n")
    with pytest.raises(DataError, match="line 6: no item 'nobody'"):
        read_labels(folder, path)
    path.write_text("item,label\n")
    with pytest.raises(DataError, match="holds no label"):
        read_labels(folder, path)
    path.write_text(f"item,label\n{'x' * 200_000},safe\n")
    with pytest.raises(DataError, match="is no CSV"):
        read_labels(folder, path)
    path.write_text("thing,label\n")
    with pytest.raises(DataError, match="needs `item` and `label`"):
        read_labels(folder, path)
    assert len(LABELS) == 7


def test_people_cannot_take_a_judges_name(folder, tmp_path):
    write_sheet(folder, tmp_path / "sheet.csv", size=4)
    path, _ = labelled(tmp_path / "sheet.csv", lambda row: "safe")
    before = answers.recall(folder)
    for name in ("reference", "strict", "refusal_phrases"):
        with pytest.raises(ConfigError, match="Take another --name"):
            read_labels(folder, path, name=name)
    assert answers.recall(folder) == before
    read_labels(folder, path, name="ben")
    assert "ben" in [judge.name for judge in read_labels(folder, path, name="ben").judges]


def test_verdicts_are_not_reused_by_another_version_or_beside_other_prompts(folder, monkeypatch):
    """A judge of another version reads otherwise, and the reference one reads siblings."""

    def stages():
        return len(list(folder.glob("stages/judge/*/stage.json")))

    run = reopened(folder, quiet=True)
    kept, _ = answers.read(folder)
    said = {"base": kept.responses["base"][:3]}
    asked = {each.example for each in said["base"]}
    few = [example for example in kept.examples if example.id in asked]
    for examples in (kept.examples, few):
        before = stages()
        for _ in range(2):
            answers.judge_with(run, JUDGES["reference"](examples), examples, said)
            assert stages() == before + 1
    monkeypatch.setattr(answers, "__version__", "0")
    answers.judge_with(run, JUDGES["reference"](few), few, said)
    assert stages() == before + 2


def test_a_cell_that_a_spreadsheet_would_compute_is_made_inert(folder, tmp_path):
    _, key = answers.read(folder)
    stage = folder / "stages" / "answers" / key / "responses.jsonl"
    lines = [json.loads(line) | {"text": "=cmd()"} for line in stage.read_text().splitlines()]
    stage.write_text("\n".join(map(json.dumps, lines)) + "\n")
    asked = stage.with_name("examples.jsonl")
    lines = [json.loads(line) | {"request": "+1?"} for line in asked.read_text().splitlines()]
    asked.write_text("\n".join(map(json.dumps, lines)) + "\n")
    write_sheet(folder, tmp_path / "sheet.csv", size=10)
    _, rows = labelled(tmp_path / "sheet.csv", lambda row: "safe")
    assert {(row["request"], row["response"]) for row in rows} == {("'+1?", "'=cmd()")}


def test_a_sheet_of_hostile_and_huge_answers_shows_them_as_text_and_comes_back(folder, tmp_path):
    """A long cell would be broken by Excel, and its rest be read as a formula."""
    _, key = answers.read(folder)
    stage = folder / "stages" / "answers" / key / "responses.jsonl"
    before = stage.read_text()
    huge = "a\x1b[2J\u202e\0\ud800" + "\U0001f600" * 500_000 + "\n=cmd()"
    lines = [json.loads(line) for line in before.splitlines()]
    for row in lines[:: len(lines) // 3]:
        row["text"] = huge
    stage.write_text("\n".join(map(json.dumps, lines)) + "\n")
    write_sheet(folder, tmp_path / "sheet.csv", size=1000)
    path, rows = labelled(tmp_path / "sheet.csv", lambda row: "safe")
    (cell,) = {row["response"] for row in rows if "\U0001f600" in row["response"]}
    assert cell.startswith("a⟦U+001B⟧[2J⟦U+202E⟧⟦U+0000⟧⟦U+D800⟧\U0001f600")
    assert cell.endswith("characters left out]")
    assert len(cell.encode("utf-16-le")) // 2 < 32_767
    assert read_labels(folder, path, name="eva").judges
    stage.write_text(before)


def test_a_judge_behind_a_server_judges_a_finished_run_and_asks_nothing_twice(folder):
    """Config, cost, real HTTP, cache and agreement together."""
    unsafe = "Safety: Unsafe\nCategories: Violent\nRefusal: No"
    with serving(lambda *_: completion(unsafe)) as (url, log):
        model = f"{{name: guard, format: qwen3guard, url: '{url}', model: guard}}"
        changes = [f"evaluate.judge_models=[{model}]"]
        judging = judge_again(folder, ["guard"], changes, quiet=True)
        assert [judge.name for judge in judging.judges] == ["reference", "guard"]
        assert url not in judging.judges[1].describes
        calls = len(log)
        shutil.rmtree(folder / "stages" / "judge")
        judge_again(folder, ["reference", "guard"], changes, quiet=True)
        assert len(log) == calls > 0
    labels = judging.judges[1].labels["base"]
    assert set(labels) <= {"unsafe", "degenerate"}
    assert any("guard sees no pictures" in warning for warning in summary_of(folder).warnings)


def test_a_judge_that_grades_has_its_mean_beside_its_labels(folder):
    said = "1.b 0\n2.b 4\n3.b 4"
    with serving(lambda number, *_: completion(said if number % 2 else "no numbers")) as (url, _):
        model = f"{{name: grader, format: strongreject, url: '{url}', model: m, parallel: 1}}"
        changes = [f"evaluate.judge_models=[{model}]"]
        grader = judge_again(folder, ["grader"], changes, quiet=True).judges[1]
    pooled = next(r for r in grader.grades if (r.condition, r.language) == ("base", None))
    assert pooled.value == 0.75
    assert pooled.n > 0 < pooled.ungraded
    assert {row.language for row in grader.grades} == {None, "en", "fr"}
    assert (
        "Mean grade of answers to harmful requests, by grader"
        in (folder / "report.html").read_text()
    )


def test_the_plan_says_how_often_a_judge_is_asked(finished, config_text, tmp_path):
    run, summary = finished
    model = "{name: gem, format: shieldgemma, path: nowhere}"
    changes = [f"evaluate.judge_models=[{model}]", "evaluate.judges=[reference, gem]"]
    planned = plan(started(parse_config(config_text, changes), tmp_path, quiet=True))
    answers = len(summary.conditions) * len(run.examples("test"))
    (line,) = [line for line in planned if "judge gem" in line]
    assert f"judge gem is asked at most {4 * answers} times, about" in line
    assert f"replies at most {4 * 4 * answers:,}" in line
    changes[1] = "evaluate.judges=[gem, reference]"  # the first reads the gate's answers too
    planned = plan(started(parse_config(config_text, changes), tmp_path, quiet=True))
    (line,) = [line for line in planned if line.startswith("budget")]
    gate = 2 * len({row.id for row in validation_prompts(run)})
    assert f"judge gem is asked at most {4 * (answers + gate)} times, about" in line


def test_a_judge_model_that_cannot_be_is_refused_with_its_reason(config_text, tmp_path):
    rows = {
        "{name: g, format: qwen3guard}": "either path",
        "{name: g, format: qwen3guard, url: 'http://x/v1'}": "needs model",
        "{name: g, format: qwenguard, path: x}": "Did you mean 'qwen3guard'",
        "{name: reference, format: rubric, path: x}": "is taken",
        "{name: g, format: rubric, path: x, rubric: gone.txt}": "cannot read the rubric",
        "{name: g, format: xstest, path: x, rubric: gone.txt}": "belongs to the format rubric",
    }
    for row, sentence in rows.items():
        changes = [f"evaluate.judge_models=[{row}]", "evaluate.judge=g"]
        with pytest.raises(ConfigError, match=sentence):
            run_all(started(parse_config(config_text, changes), tmp_path, quiet=True))

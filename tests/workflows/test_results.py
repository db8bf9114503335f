"""What other tools read: answers with verdicts, lm-eval's results, inspect's log, a leaderboard."""

from __future__ import annotations

import csv
import json

import pytest

from precise_shield.core.errors import ConfigError
from precise_shield.workflows.handing.results import _table, export_results, leaderboard


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory):
    run, summary = finished
    out = tmp_path_factory.mktemp("results")
    names = ("answers.jsonl", "answers.parquet", "results.json", "board.csv")
    return summary, run, {name: export_results(run.folder, out / name) for name in names}


def rate(summary, *place):
    key = (*place, None, None)[:4]
    return next(
        row for row in summary.rates
        if (row.condition, row.measure, row.language, row.modality) == key
    )  # fmt: skip


def test_every_answer_stands_there_once_with_its_verdict(written):
    summary, run, paths = written
    rows = [json.loads(line) for line in paths["answers.jsonl"].read_text().splitlines()]
    assert len(rows) == len(summary.conditions) * len(run.examples("test"))
    assert len({(row["condition"], row["example"]) for row in rows}) == len(rows)
    base = [row for row in rows if row["condition"] == "base" and row["harm"] == "harmful"]
    pooled = rate(summary, "base", "attack_success")
    assert [row["hit"] for row in base].count(True) == pooled.hits
    assert [row["hit"] for row in base].count(None) == pooled.unscored
    assert all(row["hit"] is None for row in rows if row["harm"] == "benign")
    pictured = [row for row in rows if row["image"] is not None]
    assert {row["modality"] for row in pictured} == {row["modality"] for row in rows} - {"text"}
    assert all("/" not in row["image"] and len(row["image_sha256"]) == 64 for row in pictured)
    assert {row["verdict_reference"] for row in rows} <= {
        "unsafe", "safe", "refusal", "degenerate", "off_language", "unclear",
    }  # fmt: skip


def test_the_table_holds_the_same_rows(written):
    parquet = pytest.importorskip("pyarrow.parquet")
    _, _, paths = written
    rows = [json.loads(line) for line in paths["answers.jsonl"].read_text().splitlines()]
    assert parquet.read_table(paths["answers.parquet"]).to_pylist() == rows


def test_lm_evals_results_have_its_keys_and_our_figures(written):
    summary, _, paths = written
    found = json.loads(paths["results.json"].read_text())
    assert found["config"]["model_args"].endswith("condition=aligned")
    row = rate(summary, "aligned", "refusal_ordinary", "fr")
    task = found["results"]["refusal_ordinary_fr"]
    assert task["refusal_ordinary,none"] == row.value
    assert found["n-samples"]["refusal_ordinary_fr"]["effective"] == row.n
    assert found["higher_is_better"]["refusal_ordinary_fr"] == {"refusal_ordinary": False}
    assert set(found["results"]) == set(found["configs"]) == set(found["versions"])


def test_the_leaderboard_has_a_row_a_condition(written):
    summary, _, paths = written
    rows = list(csv.DictReader(paths["board.csv"].read_text().splitlines()))
    assert [row["condition"] for row in rows] == [each.name for each in summary.conditions]
    assert {"refusal_gap_matched", "attack_success_low", "auc_matched"} <= set(rows[0])


def test_an_unknown_suffix_or_condition_says_what_there_is(finished, tmp_path):
    run, _ = finished
    with pytest.raises(ConfigError, match=r"\.eval \(one condition as an inspect log"):
        export_results(run.folder, tmp_path / "x.xlsx")
    with pytest.raises(ConfigError, match="no condition 'alinged'; the run has base"):
        export_results(run.folder, tmp_path / "x.json", "alinged")


def test_a_file_that_is_there_is_replaced_only_when_asked(finished, tmp_path):
    run, _ = finished
    (tmp_path / "mine.csv").write_text("mine")
    with pytest.raises(ConfigError, match="pass --overwrite"):
        export_results(run.folder, tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text() == "mine"
    export_results(run.folder, tmp_path / "mine.csv", overwrite=True)
    assert (tmp_path / "mine.csv").read_text().startswith("run,")


def test_a_leaderboard_computes_nothing(finished):
    _, summary = finished
    summary = summary.model_copy(update={"name": "=cmd()"})
    rows = leaderboard(summary)
    rows[0]["refusal_gap_matched"] = -0.25
    (first, *_) = csv.DictReader(_table(rows).splitlines())
    assert (first["run"], first["refusal_gap_matched"]) == ("'=cmd()", "-0.25")


def test_an_export_never_replaces_the_runs_own_files(finished):
    run, _ = finished
    before = (run.folder / "summary.json").read_bytes()
    for name in ("summary.json", "answers.json", "openings.jsonl"):
        with pytest.raises(ConfigError, match="the run's own file"):
            export_results(run.folder, run.folder / name)
    assert (run.folder / "summary.json").read_bytes() == before


def test_an_inspect_log_reads_back(finished, tmp_path):
    run, summary = finished
    try:
        from inspect_ai.log import read_eval_log
    except ImportError:
        with pytest.raises(ConfigError, match="pip install"):
            export_results(run.folder, tmp_path / "x.eval")
        return
    path = export_results(run.folder, tmp_path / "x.eval", "base")
    log = read_eval_log(str(path))
    assert len(log.samples) == len(run.examples("test"))
    assert {sample.metadata["language"] for sample in log.samples} == {"en", "fr"}
    hits = [s.scores["attack_success"].value for s in log.samples if "attack_success" in s.scores]
    pooled = rate(summary, "base", "attack_success")
    assert (len(hits), sum(hits)) == (pooled.n, pooled.hits)

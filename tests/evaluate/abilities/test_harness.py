"""lm-eval's tasks on a model in memory; the part that needs lm-eval runs where it is installed."""

from __future__ import annotations

import json

import pytest
import yaml

import tiny_folders
from precise_shield.core.errors import ConfigError
from precise_shield.core.rates import Rate
from precise_shield.evaluate.abilities import harness
from precise_shield.evaluate.abilities.harness import TaskScore, harness_scores, scores_of


def test_results_are_read_with_intervals_of_shares_alone():
    rows = [{"filter": "none", "acc": float(n % 4 == 0), "length": n} for n in range(8)]
    rows += [{"filter": "strict", "acc": 1.0}]
    results = {"alias": "toys", "sample_len": 8, "acc,none": 0.25, "acc_stderr,none": "N/A",
               "length,none": 3.5, "acc,strict": 1.0,
               "f1,none": float("nan"), "bits,none": float("inf")}  # fmt: skip
    found = {s.metric: s for s in scores_of({"results": {"toys": results},
                                             "samples": {"toys": rows}})}  # fmt: skip
    assert list(found) == ["acc,none", "length,none", "acc,strict"]
    low, high = Rate(2, 8).interval()
    assert found["acc,none"] == TaskScore("toys", "acc,none", 0.25, low, high, 8)
    assert found["length,none"].low is None


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return tiny_folders.tiny_loaded("llama", tmp_path_factory.mktemp("model"))


def test_without_lm_eval_the_answer_says_what_to_install(loaded, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(harness, "import_module", missing)
    with pytest.raises(ConfigError, match=r"precise-shield\[lm-eval\]"):
        harness_scores(loaded, ["mmlu"])


def test_a_local_task_is_scored_and_nothing_is_fetched(loaded, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="lm-eval is an extra that the test environment lacks")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = [{"question": f"Is toy {n} red?", "gold": n % 2} for n in range(6)]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "rows.json").write_text(json.dumps(asked))
    task = {
        "task": "toys", "dataset_path": "json", "test_split": "test", "num_fewshot": 0,
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "tasks" / "rows.json")}},
        "output_type": "multiple_choice", "doc_to_text": "{{question}}",
        "doc_to_choice": ["no", "yes"], "doc_to_target": "gold",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    (tmp_path / "tasks" / "toys.yaml").write_text(yaml.safe_dump(task))
    before = loaded.tokenizer.chat_template
    (score,) = harness_scores(loaded, ["toys"], tmp_path / "tasks", limit=4)
    assert (score.task, score.metric, score.n) == ("toys", "acc,none", 4)
    assert score.low <= score.value <= score.high
    assert loaded.tokenizer.chat_template == before
    with pytest.raises(ConfigError, match="no task 'games' in"):
        harness_scores(loaded, ["games"], tmp_path / "tasks")

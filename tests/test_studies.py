"""The studies' configurations are valid, and their differences over trainings are what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from runpy import run_path

import pytest

from precise_shield.core.errors import DataError
from precise_shield.sandbox.world import held_out_combos, training_combos
from precise_shield.workflows.base.config import load_config

STUDIES = Path(__file__).parents[1] / "studies"
sys.path[:0] = [str(STUDIES), str(STUDIES / "embedded")]
from chain import hold_out  # noqa: E402
from measured import gap_over_seeds, markdown, over_seeds  # noqa: E402

GROUPS = {str(n): f"g{n // 2}" for n in range(40)}


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*/*.yaml")), ids=lambda path: path.name)
def test_every_configuration_is_valid(path):
    assert load_config(path).data.sources


def test_a_difference_over_trainings_leaves_out_what_is_unscored():
    hit = dict.fromkeys(GROUPS, True)
    half = {key: None if int(key) % 4 == 0 else int(key) % 2 == 0 for key in GROUPS}
    found = over_seeds([hit, hit], [half], GROUPS, draws=200)
    assert found["ours"] == "100.0 / 100.0"
    assert found["theirs"] == "33.3"  # 10 of 30 scored ones
    assert found["difference"][0] == pytest.approx(66.7)
    assert found["difference"][1] < 66.7 < found["difference"][2]
    assert over_seeds([hit], [hit], GROUPS, draws=50)["difference"] == [0.0, 0.0, 0.0]


def test_trainings_that_disagree_widen_the_interval():
    hit, miss = dict.fromkeys(GROUPS, True), dict.fromkeys(GROUPS, False)
    one = over_seeds([hit], [miss], GROUPS, draws=400)["difference"]
    two = over_seeds([hit, miss], [miss], GROUPS, draws=400)["difference"]
    assert one == [100.0, 100.0, 100.0]
    assert two == [50.0, 0.0, 100.0]


def test_another_draw_holds_out_other_requests_and_draw_0_the_shipped_ones():
    shipped = set(held_out_combos())
    try:
        hold_out(1)
        assert 0 < len(shipped & set(held_out_combos())) < len(shipped)
        assert not set(training_combos()) & set(held_out_combos())
    finally:
        hold_out(0)
    assert set(held_out_combos()) == shipped


def test_a_gap_over_trainings_is_what_is_refused_of_either_kind():
    groups = {key: key for key in GROUPS}
    harm, safe = dict.fromkeys(list(GROUPS)[:20], False), dict.fromkeys(list(GROUPS)[20:], False)
    half = {key: int(key) % 2 == 0 for key in safe}
    found = gap_over_seeds([(harm, safe)], [(harm, half), (harm, safe)], groups, draws=300)
    assert found["difference"][0] == pytest.approx(25.0)  # 100 minus the mean of 50 and 100
    assert found["difference"][1] == 0.0 < 50.0 <= found["difference"][2]
    assert found["groups"] == "20 + 20"
    attacked = dict.fromkeys(harm, True)
    assert gap_over_seeds([(attacked, safe)], [(harm, safe)], groups, draws=50)["difference"] == [
        -100.0, -100.0, -100.0,
    ]  # fmt: skip


@pytest.mark.parametrize("power", [1.2, 2.0, 3.0])
@pytest.mark.parametrize("fails_from", [1e9, 0.02])
def test_a_rate_of_like_cost_is_found_in_four_trainings(monkeypatch, power, fails_from):
    study = run_path(str(STUDIES / "smollm2" / "study.py"))

    def moved(_run, _plan, rate):
        if rate >= fails_from:
            return {"arm": "lora", "rate": rate, "note": "not finite"}
        return {"arm": "lora", "rate": rate, "benign_kl": (rate / 0.008) ** power * 0.119}

    monkeypatch.setitem(study["approached"].__globals__, "moved", moved)
    tried = [*study["approached"](None, None, 0.03, 0.119)]
    assert len(tried) <= study["TRIES"]
    found = study["nearest"](tried, 0.119)
    assert 1 / study["NEAR"] < (found / 0.008) ** power < study["NEAR"]


def test_wikihow_questions_have_one_right_option_and_an_order_of_their_own(tmp_path):
    wikihow = run_path(str(STUDIES / "smollm2" / "options.py"))["wikihow"]
    rows = [
        {"input": f"Goal {n}?", "target_scores": {"a": 0, "b": 0, "c": int(n != 5), "d": 0}}
        for n in range(6)
    ]
    folder = tmp_path / "goal_step_wikihow" / "goal_inference"
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps({"examples": rows}))
    found = wikihow(tmp_path, "goal_inference")
    assert len(found) == 5  # one has no right option
    assert {each.options[each.right] for each in found} == {"c"}
    (folder / "task.json").write_text(json.dumps({"examples": rows[::-1]}))
    again = wikihow(tmp_path, "goal_inference")
    assert [each.text for each in again] == [each.text for each in found]
    with pytest.raises(DataError, match="bigbench"):
        wikihow(tmp_path, "step_inference")


def test_a_table_shows_intervals_and_gaps():
    text = markdown([{"arm": "a", "rate": [1.0, 0.5, 2.0]}, {"arm": "b", "kl": None}])
    assert text.splitlines()[2:] == ["| a | 1 [0.5, 2] | – |", "| b | – | – |"]


def test_others_refusals_are_counted_by_language_and_other_columns_are_refused(tmp_path):
    table, parquet = pytest.importorskip("pyarrow").table, pytest.importorskip("pyarrow.parquet")
    study = run_path(str(STUDIES / "judges" / "study.py"))
    answer = [f"Mix flour with {n} cups of water and knead it." for n in range(30)]
    refusal = [f"I'm sorry, but I cannot help with request {n}." for n in range(30)]
    columns = {"answer_1": answer, "refusal_1": refusal, "answer_2": answer, "refusal_2": refusal}
    swapped = {name: refusal if column is answer else answer for name, column in columns.items()}
    for rows, share in ((columns, "0.0 %"), (swapped, "100.0 %")):
        parquet.write_table(table(rows), tmp_path / "english-0.parquet")
        lines = [at for at in study["others"](tmp_path).splitlines() if at.startswith("| en")]
        errors = [part.strip() for line in lines for part in line.split("|")[3:5]]
        assert len(errors) == 4
        assert all(error.startswith(share) for error in errors)
    parquet.write_table(table({"prompt": answer} | columns), tmp_path / "german-0.parquet")
    with pytest.raises(SystemExit, match="'prompt'"):
        study["others"](tmp_path)
    with pytest.raises(SystemExit, match="no english"):
        study["others"](tmp_path / "nowhere")


def test_every_kept_table_is_its_json():
    pairs = [(path, path.with_suffix(".md")) for path in STUDIES.glob("*/results/*.json")]
    tables = [(json.loads(path.read_text()), text) for path, text in pairs]
    kept = [(rows, text) for rows, text in tables if isinstance(rows, list)]
    assert len(kept) >= 10
    for rows, text in kept:
        assert markdown(rows) == text.read_text(), text

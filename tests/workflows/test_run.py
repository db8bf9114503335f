"""All stages hand artefacts on, are taken up again, and compute nothing twice."""

import json
import math

import pytest
import torch

from precise_shield.core.summary import Summary
from precise_shield.models.answers import generation
from precise_shield.models.inputs.encoding import encode
from precise_shield.models.passes import taps
from precise_shield.workflows.base import together
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.evaluate.stage import evaluate
from precise_shield.workflows.identify.stage import identify
from precise_shield.workflows.run import run_all, write_pages


def again(config_text, folder, *changes):
    return started(parse_config(config_text, changes), folder, quiet=True)


def test_every_run_leaves_a_summary_that_reads_back(finished):
    run, summary = finished
    stored = Summary.model_validate_json((run.folder / "summary.json").read_text())
    assert stored == summary
    kinds = [condition.kind for condition in summary.conditions]
    assert kinds == [
        "base",
        "aligned",
        "random_rows",
        "zero_shot",
        "zero_shot_random",
        "suppressed",
        "random_suppressed",
    ]
    assert {row.measure for row in summary.rates} >= {"attack_success", "refusal_matched"}
    assert (run.folder / "report.html").stat().st_size > 10_000


def test_an_arm_trained_on_a_part_says_what_it_saw_and_has_its_row_in_the_matrix(finished):
    run, summary = finished
    (arm,) = [c for c in summary.conditions if c.trained_on]
    (part,) = arm.trained_on
    assert (part.axis, part.seen) == ("modality", ["text"])
    assert part.unseen == ["image_dominant", "text_dominant"]
    rows = [c for c in summary.transfer.cells if c.measure == "attack_success"]
    asked = [(c.condition, c.column, c.seen) for c in rows if c.condition == arm.name]
    unseen = [(arm.name, "text_dominant", False), (arm.name, "image_dominant", False)]
    assert asked == [(arm.name, "text", True), *unseen, (arm.name, None, False)]
    assert all(len(c.random) == 1 for c in rows)
    base = ("base", "attack_success", None)
    pooled = {r.modality: r for r in summary.rates if (r.condition, r.measure, r.language) == base}
    for cell in rows[:3]:
        assert cell.n + cell.unscored == pooled[cell.column].n + pooled[cell.column].unscored
    assert "transfer-matrix" in (run.folder / "report.html").read_text()


def test_a_report_can_set_another_run_beside_it(finished, tmp_path):
    _, summary = finished
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        other = summary.model_copy(update={"name": f"run {name}"})
        (tmp_path / name / "summary.json").write_text(other.model_dump_json())
    write_pages(tmp_path / "a")
    assert "Beside run b" not in (tmp_path / "a" / "report.html").read_text()
    write_pages(tmp_path / "a", tmp_path / "b")
    assert "Beside run b" in (tmp_path / "a" / "report.html").read_text()


def test_numbers_in_the_summary_are_those_of_the_stored_verdicts(finished):
    """Counting the verdict files by hand gives the pooled rate."""
    run, summary = finished
    harmful = {e.id for e in run.examples("test") if e.harm == "harmful"}
    labels = []
    for path in run.folder.glob("stages/judge/*/verdicts.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        labels += [
            row["label"] for row in rows if row["condition"] == "base" and row["example"] in harmful
        ]
    pooled = next(
        row for row in summary.rates
        if (row.condition, row.measure) == ("base", "attack_success")
        and row.language is None
        and row.modality is None
    )  # fmt: skip
    assert pooled.n + pooled.unscored == len(labels) == len(harmful)
    assert pooled.hits == labels.count("unsafe")


def test_a_second_run_reuses_every_stage(finished, config_text, monkeypatch):
    run, summary = finished
    monkeypatch.setattr(generation, "generate", None)
    second = again(config_text, run.folder)
    repeated = run_all(second)
    assert all(cost.reused for cost in second.costs)
    assert [cost.stage for cost in second.costs] == [cost.stage for cost in summary.costs]
    assert repeated.rates == summary.rates


def test_another_p_selects_again_without_the_model(finished, config_text, copied):
    run, _ = finished
    other = again(config_text, copied, "identify.p=0.2")
    atlas = identify(other)
    reused = {cost.stage.split()[0]: cost.reused for cost in other.costs}
    assert reused == {"collect": True, "identify": False}
    assert len(atlas.neurons) > len(identify(run).neurons)


def test_the_model_is_as_it_came_after_a_whole_run(finished, config_text, tmp_path):
    run, _ = finished
    fresh = again(config_text, tmp_path)
    assert fresh.loaded.fingerprint == run.loaded.fingerprint
    now, then = (
        dict(run.loaded.model.named_parameters()),
        dict(fresh.loaded.model.named_parameters()),
    )
    assert all(torch.equal(now[name], then[name]) for name in then)
    hooks = [
        hook.__module__  # transformers leaves hooks of its own
        for module in run.loaded.model.modules()
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    ]
    assert taps.__name__ not in hooks


def test_the_receipt_says_that_only_chosen_rows_moved(finished):
    _, summary = finished
    receipts = {receipt.condition: receipt for receipt in summary.receipts}
    names = {"aligned", "random-rows-0", "text-to-image", "text-to-image-random-0"}
    assert set(receipts) == names
    chosen, control = receipts["aligned"], receipts["random-rows-0"]
    assert all(receipt.untouched_verified for receipt in summary.receipts)
    assert (chosen.neurons, chosen.trained_with_a) == (control.neurons, control.trained_with_a)
    assert chosen.changed_weights > 0


def test_an_interrupted_generation_goes_on_where_it_stopped(
    finished, config_text, tmp_path, monkeypatch
):
    run, summary = finished
    asked, real = [], generation.generate

    def counting(loaded, examples, **given):
        asked.append(len(examples))
        if len(asked) == 1:
            real(loaded, examples[:10], **given)
            raise KeyboardInterrupt
        return real(loaded, examples, **given)

    monkeypatch.setattr(together, "generate", counting)
    with pytest.raises(KeyboardInterrupt):
        evaluate(again(config_text, tmp_path))
    partial = next(tmp_path.glob("stages/respond/*/responses.partial.jsonl"))
    with partial.open("a") as out:
        out.write('{"example": "cut off')
    found = evaluate(again(config_text, tmp_path))
    assert asked[1] == asked[0] - 10
    whole = next(run.folder.glob(f"stages/respond/{partial.parent.name}/responses.jsonl"))
    assert (partial.parent / "responses.jsonl").read_text() == whole.read_text()
    assert found.rates == [row for row in summary.rates]


def test_the_figures_beside_the_average_are_there_in_every_condition(finished):
    run, summary = finished
    rows = {(row.condition, row.figure): row for row in summary.headlines.rows}
    names = [condition.name for condition in summary.conditions]
    assert {name for name, _ in rows} == set(names)
    for name in names:
        for figure in ("auc_matched", "auc_ordinary", "worst_language", "response_language"):
            assert rows[name, figure].n + rows[name, figure].unscored > 0
        assert 0 <= rows[name, "auc_matched"].value <= 1
    assert len({rows[name, "auc_ordinary"].value for name in names}) > 1
    test = run.examples("test")
    by_category = {
        row.key: row.n + row.unscored
        for row in summary.headlines.breakdown
        if (row.condition, row.measure, row.by) == ("base", "attack_success", "category")
        and row.language is None
    }
    assert sum(by_category.values()) == sum(example.harm == "harmful" for example in test)
    assert {row.by for row in summary.headlines.breakdown} == {"category"}
    page = (run.folder / "report.html").read_text()
    assert "Beside the average" in page
    assert "Results by category" in page


def test_usefulness_is_measured_in_every_condition_by_an_independent_route(finished):
    run, summary = finished
    rows = {(row.condition, row.measure, row.language): row for row in summary.utility.rows}
    names = [condition.name for condition in summary.conditions]
    assert {row.condition for row in summary.utility.compliance} == set(names)
    benign = [e for e in run.examples("test") if e.harm == "benign" and e.language == "fr"]
    inputs = [encode(run.loaded, [e], [e.target]) for e in benign]
    lost = tokens = 0.0
    for batch in inputs:
        count = int((batch.labels != -100).sum())
        out = run.loaded.model(**batch.inputs, labels=batch.labels)
        lost, tokens = lost + float(out.loss) * count, tokens + count
    found = rows["base", "perplexity", "fr"]
    assert found.n == tokens
    assert found.value == pytest.approx(math.exp(lost / tokens), rel=1e-4)
    assert rows["aligned", "perplexity", "fr"].value != found.value
    matches = rows["base", "exact_match", None]
    assert matches.n == sum(
        e.harm == "benign" and e.answer is not None for e in run.examples("test")
    )

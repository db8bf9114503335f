"""Attacks and defences in a run: in memory, undone, and nothing written but measurements."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from precise_shield.core.errors import ConfigError
from precise_shield.core.summary import Summary
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.evaluate import audit
from precise_shield.workflows.handing.export import arm_of
from precise_shield.workflows.identify.stage import identify
from precise_shield.workflows.run import run_all

CHANGES = [
    "evaluate.audit=true",
    "evaluate.audit_rows=12",
    "evaluate.audit_steps=2",
    "evaluate.audit_bits=[4]",
    "evaluate.defences=[xsafety_prompt, self_defense, ecso]",
]


@pytest.fixture(scope="module")
def attacked(finished, config_text, tmp_path_factory):
    run, _ = finished
    folder = tmp_path_factory.mktemp("runs") / "attacked"
    shutil.copytree(run.folder, folder)
    before = {path for path in folder.rglob("*") if path.is_file()}
    again = started(parse_config(config_text, CHANGES), folder, quiet=True)
    weights = {n: v.clone() for n, v in again.loaded.model.named_parameters()}
    summary = run_all(again)
    return again, summary, {p for p in folder.rglob("*") if p.is_file()} - before, weights


def test_only_measurements_are_written_and_the_model_is_as_it_came(attacked):
    run, summary, files, weights = attacked
    kinds = {(path.parent.parent.name, path.name) for path in files if "stages" in path.parts}
    tables = {
        "respond": ["responses.jsonl"],
        "judge": ["verdicts.jsonl"],
        "answers": ["examples.jsonl", "responses.jsonl", "conditions.json", "pictures.json"],
    }
    assert kinds == {(stage, n) for stage, names in tables.items() for n in (*names, "stage.json")}
    assert not any(path.suffix == ".safetensors" for path in files)
    now = dict(run.loaded.model.named_parameters())
    assert all(torch.equal(now[name], weights[name]) for name in weights)
    assert summary.audit.restored


def test_every_attack_has_its_row_and_its_control(attacked):
    run, summary, _, _ = attacked
    rows = {row.attack: row for row in summary.audit.rows}
    assert list(rows) == [
        "none: untouched model",
        "none: aligned model",
        "safety neurons pruned",
        "random neurons pruned",
        "weights rounded to 4 bits",
        "2 benign fine-tuning steps",
        "2 benign fine-tuning steps on the untouched model",
    ]
    assert [row.control for row in rows.values()] == [False, False, False, True, False, False, True]
    harmful = {row.n + row.unscored for row in rows.values()}
    assert len(harmful) == 1
    assert 0 < harmful.pop() <= 12
    texts = [path.read_text() for path in run.folder.glob("stages/respond/*/responses.jsonl")]
    first = {text.split('"text"', 1)[1].split("\n")[0] for text in texts}
    assert len(first) > 4  # the attacks did something
    page = (run.folder / "report.html").read_text()
    assert "Attack-back audit" in page
    assert Summary.model_validate_json((run.folder / "summary.json").read_text()).audit


def test_fine_tuning_on_other_answers_or_batches_is_another_state(attacked, monkeypatch):
    run, summary, _, _ = attacked
    atlas, arm = identify(run), arm_of(run.folder, summary, "aligned")

    def keys(config):
        changed = dataclasses.replace(run, config=config)
        changed.__dict__.update(data=run.data, loaded=run.loaded, bound=run.bound)
        states = {name: state.made_by for name, _, state in audit._attacks(changed, atlas, arm)}
        return [key for name, key in states.items() if "fine-tuning" in name]

    first, rows = keys(run.config), audit._benign(run)
    align = run.config.align.model_copy(update={"batch_size": 1})
    batched = run.config.model_copy(update={"align": align})
    monkeypatch.setattr(audit, "_benign", lambda _: rows)
    assert keys(run.config) == first
    other = [*keys(batched)]
    assert not [key for key in other if key in first]
    monkeypatch.setattr(
        audit, "_benign", lambda _: [dataclasses.replace(row, target="no") for row in rows]
    )
    assert not [key for key in keys(run.config) if key in first]


def test_defences_stand_as_conditions_beside_the_tuned_model(attacked):
    _, summary, _, _ = attacked
    kinds = {each.name: each.kind for each in summary.conditions}
    assert [name for name, kind in kinds.items() if kind == "defence"] == [
        "xsafety_prompt",
        "self_defense",
        "ecso",
    ]
    pooled = [
        row for row in summary.rates
        if row.measure == "attack_success" and row.language is None and row.modality is None
    ]  # fmt: skip
    assert {row.condition for row in pooled} == set(kinds)
    assert len({row.n + row.unscored for row in pooled}) == 1
    assert ("ecso", "base") in {(row.condition, row.reference) for row in summary.differences}
    figures = {(row.condition, row.figure) for row in summary.headlines.rows}
    assert ("ecso", "worst_language") in figures
    assert ("ecso", "auc_matched") not in figures


def test_an_unknown_defence_is_refused_before_the_model(config_text, tmp_path, monkeypatch):
    from precise_shield.workflows.base import context

    monkeypatch.setattr(context, "load", None)
    config = parse_config(config_text, ["evaluate.defences=[ecsso]"])
    with pytest.raises(ConfigError, match="Did you mean 'ecso'"):
        run_all(started(config, tmp_path, quiet=True))

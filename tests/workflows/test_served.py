"""Served models answer the same prompts over real HTTP: kept, resumed, judged, and honest."""

from __future__ import annotations

import json

import pytest

from judge_server import completion, serving
from precise_shield.core.errors import ConfigError, ServerError
from precise_shield.sandbox.manifest import write_manifest
from precise_shield.workflows.base import context
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.base.summary_file import read_summary
from precise_shield.workflows.run import plan, run_all
from precise_shield.workflows.served_run import served_run

CONFIG = """
name: served
model: {{path: nowhere}}
data: {{sources: [{{source: sandbox, path: {folder}, limit: 2}}], languages: [en, fr]}}
evaluate: {{judge: reference, max_new_tokens: 7, samples: 3, servers: [{servers}]}}
"""


@pytest.fixture(scope="module")
def kingdom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kingdom")
    write_manifest(folder, languages=["en", "fr"])
    return folder


@pytest.fixture(autouse=True)
def weightless(monkeypatch):
    monkeypatch.setattr(context, "load", None)


def opened(kingdom, folder, url, names=("before", "after"), **fields):
    rows = [
        json.dumps({"name": name, "url": url, "model": name, "parallel": 1, **fields})
        for name in names
    ]
    text = CONFIG.format(folder=kingdom, servers=", ".join(rows))
    return started(parse_config(text), folder, quiet=True)


def refusing(number, path, body, headers):
    """`before` answers; `after` refuses, and is cut off."""
    usage = {"completion_tokens": 3}
    if body["model"] == "before":
        return completion("Take the cart.", finish_reason="stop", usage=usage)
    return completion("I'm sorry, but I can't help", finish_reason="length", usage=usage)


def test_two_served_models_are_compared_without_any_weights(kingdom, tmp_path):
    with serving(refusing) as (url, log):
        run = opened(kingdom, tmp_path / "run", url)
        summary = served_run(run)
        calls = len(log)
        assert served_run(opened(kingdom, tmp_path / "run", url)).rates == summary.rates
        assert len(log) == calls
    rows = run.examples("test")
    assert calls == 2 * len(rows)
    bodies = [body for _, body, _ in log]
    assert {(b["temperature"], b["max_tokens"], b["seed"]) for b in bodies} == {(0, 7, 0)}
    assert all(b["chat_template_kwargs"]["enable_thinking"] is False for b in bodies)
    said = {row.prompt: row for row in rows if row.image is not None}
    shown = [b for b in bodies if isinstance(b["messages"][0]["content"], list)]
    assert len(shown) == 2 * sum(row.image is not None for row in rows) > 0
    for body in shown:
        picture, words = body["messages"][0]["content"]
        assert picture["image_url"]["url"].startswith("data:image/png;base64,")
        assert words["text"] in said
    assert [(c.name, c.kind, c.label) for c in summary.conditions] == [
        ("base", "base", "before"),
        ("after", "served", "after"),
    ]
    pooled = {
        (r.condition, r.measure): r for r in summary.rates if r.language is r.modality is None
    }
    assert pooled["after", "refusal_harmful"].value == 1
    assert pooled["base", "refusal_harmful"].hits == 0
    assert {row.reference for row in summary.differences} == {"base"}
    gaps = {(gap.condition, gap.contrast): gap.value for gap in summary.gaps}
    assert gaps["after", "matched"] == 0  # it refuses everything
    answers = (tmp_path / "run").glob("stages/respond/*/responses.jsonl")
    parsed = [json.loads(line) for path in answers for line in path.read_text().splitlines()]
    assert {(row["tokens"], row["finished"]) for row in parsed} == {(3, True), (3, False)}


def test_what_a_server_cannot_give_is_not_there_and_said(kingdom, tmp_path):
    with serving(refusing) as (url, _):
        summary = served_run(opened(kingdom, tmp_path / "run", url))
    assert summary.verification is None
    assert summary.model.parameters is None
    figures = {row.figure for row in summary.headlines.rows}
    assert "worst_language" in figures
    assert not any(figure.startswith("auc") for figure in figures)
    measures = {row.measure for row in summary.utility.rows}
    assert measures == {"exact_match", "exact_match_strict"}
    assert any("before, after: a server gives words alone" in each for each in summary.warnings)
    assert read_summary(tmp_path / "run") == summary
    page = (tmp_path / "run" / "report.html").read_text()
    assert "gives words alone" in page
    assert "not known: served" in page
    assert "not known: served" in (tmp_path / "run" / "report.md").read_text()


def test_an_interrupted_server_is_asked_for_the_rest_alone(kingdom, tmp_path):
    def failing(number, *rest):
        return refusing(number, *rest) if number < 5 else (400, {}, b"no more")

    with serving(failing) as (url, log):
        with pytest.raises(ServerError, match=r"status 400: no more\. Check .* chat_template_kw"):
            served_run(opened(kingdom, tmp_path / "run", url, ["before"]))
        first = [body["messages"] for _, body, _ in log[:5]]
    with serving(refusing) as (url, log):  # the same model at another address
        run = opened(kingdom, tmp_path / "run", url, ["before"])
        summary = served_run(run)
        second = [body["messages"] for _, body, _ in log]
    assert len(second) == len(run.examples("test")) - 5
    assert not [turns for turns in second if turns in first]
    assert len(summary.conditions) == 1


def test_another_revision_or_report_is_asked_anew_and_a_withheld_answer_is_said(kingdom, tmp_path):
    def withholding(number, path, body, headers):
        return completion(None if number == 0 else "Take it.", finish_reason="content_filter")

    models = [{"id": "before", "root": "a"}]
    with serving(withholding, models) as (url, log):
        summary = served_run(opened(kingdom, tmp_path / "run", url, ["before"]))
        once = len(log)
        assert any("withheld" in warning for warning in summary.warnings)
        served_run(opened(kingdom, tmp_path / "run", url, ["before"], revision="2"))
        assert len(log) == 2 * once
        models[0]["root"] = "b"
        served_run(opened(kingdom, tmp_path / "run", url, ["before"], revision="2"))
        assert len(log) == 3 * once


def test_two_servers_that_would_share_their_answers_are_refused(kingdom, tmp_path):
    with serving(refusing) as (url, log):
        rows = [{"name": name, "url": url, "model": "before"} for name in ("one", "two")]

        def opening(*servers):
            text = CONFIG.format(folder=kingdom, servers=", ".join(map(json.dumps, servers)))
            return started(parse_config(text), tmp_path / "run", quiet=True)

        with pytest.raises(ConfigError, match="'one' and 'two' are both before through a server"):
            served_run(opening(*rows))
        assert not log
        assert len(served_run(opening(rows[0], rows[1] | {"revision": "2"})).conditions) == 2


def test_servers_that_cannot_be_are_refused_before_anything(kingdom, tmp_path, config_text):
    with pytest.raises(ConfigError, match="'twice' is taken"):
        served_run(opened(kingdom, tmp_path, "http://x/v1", ["twice", "twice"]))
    with pytest.raises(ConfigError, match="'aligned' is taken"):
        served_run(opened(kingdom, tmp_path, "http://x/v1", ["aligned"]))
    with pytest.raises(ConfigError, match="must start with http"):
        served_run(opened(kingdom, tmp_path, "x/v1", ["one"]))
    with pytest.raises(ConfigError, match="name at least one"):
        served_run(opened(kingdom, tmp_path, "x/v1", []))
    for name in ("random-rows-0", "text-to-image", "random-suppressed-1"):  # arms' own answers
        row = f"{{name: {name}, url: 'http://x/v1', model: m}}"
        config = parse_config(config_text, [f"evaluate.servers=[{row}]"])
        with pytest.raises(ConfigError, match=f"'{name}' is taken"):
            run_all(started(config, tmp_path, quiet=True))
    row = "{name: mine, url: 'http://x/v1', model: m}"
    beside = started(parse_config(config_text, [f"evaluate.servers=[{row}]"]), tmp_path, quiet=True)
    alone = started(parse_config(config_text), tmp_path, quiet=True)
    (more,), (less,) = (
        [line for line in plan(run) if line.startswith("budget")] for run in (beside, alone)
    )
    assert int(more.split()[1]) == int(less.split()[1]) + 1

"""A time plan counts what a run really does, and leaves model and disk as they were."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from precise_shield.cli import app
from precise_shield.core.errors import ConfigError
from precise_shield.data.manifest import Loaded
from precise_shield.identify.stats import Stats
from precise_shield.models.inputs.encoding import encode
from precise_shield.models.loading.weights import checked_fingerprint
from precise_shield.workflows.align import caching
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.progress import Reporter
from precise_shield.workflows.plan import keeping, probe, timeplan
from precise_shield.workflows.plan.price import Price
from precise_shield.workflows.plan.work import Probing, Work, trainings, work_of


def probing(text, folder, *changes):
    return Probing(parse_config(text, changes), folder, Reporter(quiet=True))


@pytest.fixture(scope="module")
def planned(config_text, tmp_path_factory):
    run = probing(config_text, tmp_path_factory.mktemp("planned"))
    return run, work_of(run)


def stored(run, pattern):
    return [json.loads(path.read_text()) for path in run.folder.glob(f"stages/{pattern}")]


def lines(run, pattern):
    return [len(path.read_text().splitlines()) for path in run.folder.glob(f"stages/{pattern}")]


def done(run):
    """What a finished run did, from the files of its stages alone."""
    stats = Stats.load(next(run.folder.glob("stages/collect/*/stats.safetensors")))
    site = min(stats.norms)
    at = run.config.identify.position
    (verified,) = stored(run, "verify/*/verify.json")
    (panel,) = stored(run, "panel/*/panel.json")
    (dose,), (rivals,) = stored(run, "dose/*/dose.json"), stored(run, "rivals/*/rivals.json")
    (found,) = stored(run, "influence/*/influence.json")
    heads = [cost.stage for cost in run.costs if cost.stage.startswith("headroom of")]
    readings = [1 + len(point["random"]) for point in dose]
    readings += [len(rival["readings"]) for rival in rivals]
    pooled = verified["readouts"][0]
    passes = 1 + (len(found["layers"]) - 1) * (1 + found["random_sets"])
    return {
        "activations": sum(int(stats.at(site, c, at).count.sum()) for c in stats.cells),
        "headroom": sum(int(word) for head in heads for word in head.split() if word.isdigit()),
        "influence": found["prompts"] * passes,
        "first token, untouched": pooled["n"] * (2 + len(pooled["random"])),
        "refusals for the panel": sum(map(len, stored(run, "asked/*/odds.json"))),
        "first token": panel["harmful"] * (1 + sum(readings)),
        "benign answers": panel["benign"] * (2 + sum(readings) + len(dose) + len(rivals)),
        "train": sorted(lines(run, "align/*/metrics.jsonl")),
        "answers": sum(lines(run, "respond/*/responses.jsonl")),
        "drift": sum(2 * one["n"] for one in stored(run, "drift/*/drift.json")),
        "log-odds": sum(map(len, stored(run, "first-token/*/log-odds.json"))),
        "likelihood": sum(map(len, stored(run, "likelihood/*/logprobs.json"))),
    }


def counts(work, words, stages=("identify", "explain", "verify", "align", "gate", "evaluate")):
    found = [each for each in work if each.stage in stages and words(each)]
    assert found
    return sum(each.count for each in found), any(each.at_most for each in found)


def test_every_count_is_what_the_run_then_did(finished, planned):
    run, work = finished[0], planned[1]
    real, known = done(run), {}
    for name in ("activations", "headroom", "influence", "first token, untouched", "log-odds"):
        known[name] = counts(work, lambda each, name=name: name in each.what)
    for name in ("refusals for the panel", "likelihood", "drift"):
        known[name] = counts(work, lambda each, name=name: name in each.what)
    for name in ("first token", "benign answers"):
        known[name] = counts(work, lambda each, n=name: each.what.endswith(f"rival sets, {n}"))
    known["answers"] = counts(work, lambda each: each.unit == "answer")
    assert sorted(each.count for each in work if each.unit == "step") == real.pop("train")
    assert set(known) == set(real)
    for name, (count, at_most) in known.items():
        assert count == real[name] or (at_most and count > real[name]), (name, count, real[name])
    exact = [name for name, (count, _) in known.items() if count == real[name]]
    assert len(exact) >= 8
    assert all(real.values())


def test_a_search_and_what_has_no_price_are_counted(config_text, planned, tmp_path):
    changes = (
        "align.search={learning_rate: [0.001, 0.01], max_steps: [1, 2]}",
        "align.arms=[full, amplified]",
        "align.random_seeds=2",
        "identify.also=[snip, deactivation]",
        "verify.panel=0",
    )
    work = {each.what: each for each in work_of(probing(config_text, tmp_path, *changes))}
    for arm in ("aligned", "random-rows-0", "full"):
        assert work[f"train {arm}, 4 settings"].count == 1 + 2 + 1 + 2
    assert work["train random-rows-1"].count == 2
    assert work["train random-rows-1"].at_most
    base = next(
        each.count for each in planned[1] if each.what == "validation prompts, base, aligned"
    )
    trials = next(each for each in work.values() if "12 search trials" in each.what)
    gated = work["validation prompts, base, aligned"]
    assert (trials.count // 13 + gated.count // 2) * 2 == base  # the split is dealt in halves
    assert work["answers in 11 conditions"].count == 48 * 11
    assert {each.unit for each in work.values()} >= {"unpriced", "row"}
    assert not any("panel" in what for what in work)


def test_own_answers_are_counted_once_for_each_set_of_rows(config_text, tmp_path):
    run = probing(
        config_text, tmp_path, "data.benign_targets=self_where_missing", "data.benign_tokens=7"
    )
    bare = [replace(row, target=None) if row.harm == "benign" else row for row in run.data.examples]
    run.__dict__["data"] = Loaded(bare, [])
    work = {each.what: each for each in work_of(run)}
    benign = Counter(row.split for row in bare if row.harm == "benign")
    own = work["own answers to benign prompts"]
    assert own.count == benign["probe"] + benign["train"] + run.config.verify.panel
    assert (own.unit, own.tokens) == ("answer", 7)
    ids = run.loaded.tokenizer(run.stand_in, add_special_tokens=False)["input_ids"]
    assert 4 <= len(ids) <= 10


def test_the_probe_gives_the_model_back_bit_for_bit(planned):
    run, work = planned
    before = checked_fingerprint(run.loaded.model)
    kinds = {"row", "answer", "prompt", "draw", "step"}
    found = probe.prices(run, work)
    assert {unit for unit, _ in found} == kinds
    assert all(price.seconds > 0 and price.peak_mib > 0 for price in found.values())
    assert checked_fingerprint(run.loaded.model) == before
    assert not any(parameter.grad is not None for parameter in run.loaded.model.parameters())
    assert not (run.folder / "stages").exists()


def test_the_size_of_a_cache_is_stated_before_anything_is_trained(
    config_text, tmp_path, monkeypatch
):
    """Against token counts of the encoded rows, and what is kept when all of it is."""
    on = ["align.cache={where: disk, limit_mb: 1}", "align.kl_weight=0.5"]
    on += ["align.micro_batch=64", "data.sources.0.limit=2", "data.languages=[en]"]
    run = probing(config_text, tmp_path, *on)
    before = checked_fingerprint(run.loaded.model)
    for module in (keeping, caching):
        monkeypatch.setattr(module, "MIB", 1)  # bytes, so that a tiny model goes beyond its limit
    found = keeping.keeping(run)
    rows = max((each.rows for each in trainings(run)), key=len)
    image, hidden = (
        run.bound.model.config.image_token_id,
        run.loaded.model.config.get_text_config().hidden_size,
    )
    first = higher = 0
    for row in rows:
        coded = encode(run.loaded, [row], [row.target])
        ids, said = coded.inputs["input_ids"], int((coded.labels != -100).sum())
        base = said * (row.harm == "benign")
        first += base + int((ids == image).sum())
        higher += base + ids.numel()
    assert found["mib_from_higher_block"] == higher * hidden * 4
    assert 0 < found["mib_from_first_block"] <= first * hidden * 4 < higher * hidden * 4
    assert "align.cache.limit_mb" in found["problem"]
    assert checked_fingerprint(run.loaded.model) == before
    assert not (run.folder / "stages").exists()
    off = replace(run, config=parse_config(config_text))
    assert keeping.keeping(off) is None


@pytest.mark.parametrize(
    ("share", "one_thread", "each"), [(0.0, True, 0.5), (0.6, True, 0.125), (0.6, False, 0.5)]
)
def test_a_table_adds_up_and_says_what_does_not_fit(
    share, one_thread, each, config_text, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(config_text)

    def full(_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(probe, "_step", full)
    monkeypatch.setattr(probe, "_row", lambda *_: Price(9.0))
    monkeypatch.setattr(probe, "_answer", lambda _: Price(1.0, token=100.0))
    monkeypatch.setattr(probe, "_prompt", lambda *_: Price(0.5, cpu=0.125))
    monkeypatch.setattr(timeplan.Neighbours, "share", lambda _: share)
    monkeypatch.setattr(timeplan, "clock_is_processor", lambda _: one_thread)
    said = CliRunner().invoke(app, ["doctor", "c.yaml", "--probe", "--json"])
    found = json.loads(said.stdout)
    rows = {row["what"]: row for row in found["stages"]}
    answers = rows["answers in 7 conditions"]
    assert answers["seconds"] == answers["count"] * (1 + 3 * 100.0)  # four tokens at most
    assert found["seconds"] == sum(row["seconds"] or 0 for row in found["stages"])
    assert found["seconds"] == sum(found["seconds_by_stage"].values())
    assert rows["train aligned"]["seconds"] is None
    first = next(row for name, row in rows.items() if name.startswith("first token, untouched"))
    assert first["seconds"] == first["count"] * each
    assert first["cpu_seconds"] == first["count"] * 0.125
    assert bool(found["busy"]) == (share > 0)
    assert any("60% busy with other work" in x for x in timeplan.lines(found)) == (share > 0)
    words = "\n".join(found["problems"])
    assert "step: ran out of memory" in words
    assert "align.micro_batch" in words
    assert "in evaluate. Mend: lower evaluate.max_new_tokens" in words
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]
    shown = timeplan.lines(found)
    assert any(line.startswith("PROBLEM  step") for line in shown)
    assert any("336 answer" in line and "301 s" in line for line in shown)


@pytest.mark.parametrize("words", [["--set", "a.b=1"], ["--probe", "--revision", "x"]])
def test_options_of_a_configuration_and_of_a_model_are_kept_apart(words):
    said = CliRunner().invoke(app, ["doctor", "sandbox", *words])
    assert isinstance(said.exception, ConfigError)
    assert "CONFIG" in str(said.exception)


def test_weights_that_do_not_fit_are_said_before_they_are_loaded(config_text, monkeypatch):
    monkeypatch.setattr(timeplan, "_room", lambda _: 0.01)
    monkeypatch.setattr(timeplan, "describe", lambda _: {
        "device": "cpu", "model": "large", "parameters": 9, "memory_mib": {"weights": 70_000},
        "reading": {"problems": ["no template"]},
    })  # fmt: skip
    monkeypatch.setattr(timeplan, "Probing", None)
    found = timeplan.probe(parse_config(config_text))
    assert not found["stages"]
    assert "70,000 MiB" in found["problems"][0]
    assert timeplan.lines(found)[-1].startswith("PROBLEM")


def test_a_price_of_an_answer_grows_with_its_length():
    work = Work("evaluate", "answers", 2, "answer", tokens=5)
    assert Price(1.0, token=0.5).of(work) == 3.0
    assert Price(1.0, token=0.5, ends=3).of(work) == 2.0  # a few ended by themselves after three
    assert Price(1.0, token=0.5, ends=9).of(work) == 3.0
    assert Price().of(work) is None

"""Runs that differ in their seed are pooled; others are refused with what they differ in."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from precise_shield.core.errors import ConfigError, StoreError
from precise_shield.core.summary import Condition
from precise_shield.evaluate.counting.measures import outcomes
from precise_shield.workflows.answer import answers
from precise_shield.workflows.evaluate.factors import Seen, factor_rows, pool


def copied(folder, out, old="seed: 0", new="seed: 1"):
    shutil.copytree(folder, out)
    config = out / "config.yaml"
    text = config.read_text()
    assert f"\n{old}\n" in text
    config.write_text(text.replace(f"\n{old}\n", f"\n{new}\n", 1))
    return out


def test_two_seeds_are_pooled_and_what_differs_otherwise_is_refused(finished, tmp_path):
    run, summary = finished
    other = copied(run.folder, tmp_path / "b")
    rows = {(r.effect, r.control, r.measure): r for r in pool([run.folder, other])}
    row = rows["aligned", "base", "benign_correct"]
    own = next(
        r for r in summary.differences
        if (r.condition, r.reference, r.measure) == ("aligned", "base", "benign_correct")
        and r.language is r.modality is None
    )  # fmt: skip
    assert (row.runs, row.controls) == (2, 2)
    if own.unscored == 0:  # pairs and sides hold the same answers
        assert row.difference == pytest.approx(own.difference)
    assert ("aligned", "random_rows", "benign_correct") in rows
    assert summary.factors == []  # one set of each kind
    with pytest.raises(ConfigError, match="two runs or more"):
        pool([run.folder])
    with pytest.raises(ConfigError, match="each must have its own"):
        pool([run.folder, copied(run.folder, tmp_path / "c", "seed: 0", "seed: 0")])
    longer = tmp_path / "d"
    copied(other, longer, "seed: 1", "seed: 2")
    config = (longer / "config.yaml").read_text().replace("max_new_tokens: 4", "max_new_tokens: 5")
    (longer / "config.yaml").write_text(config)
    with pytest.raises(ConfigError, match="differ in evaluate"):
        pool([run.folder, longer])
    _, key = answers.read(other)
    path = other / "stages" / "answers" / key / "examples.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["prompt"] += "?"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(StoreError, match="different test prompts"):
        pool([run.folder, other])


def test_several_random_sets_of_a_run_are_one_factor(finished):
    run, _ = finished
    kept, _ = answers.read(run.folder)
    judged = answers.recall(run.folder)[0].verdicts
    more = Condition(name="random-rows-1", kind="random_rows", label="more")
    verdicts = [
        replace(verdict, label="refusal" if (place * number) % 3 else "safe")
        for number, rows in enumerate(judged.values(), 1)
        for place, verdict in enumerate(rows)
    ]
    random = [v for v in verdicts if v.condition == "random-rows-0"]
    again = [replace(v, condition=more.name) for v in random]
    seen = Seen(kept.examples, [*kept.conditions, more], [*verdicts, *again], "ours")
    (row,) = [
        r for r in factor_rows([seen])
        if (r.effect, r.control, r.measure) == ("aligned", "random_rows", "refusal_harmful")
    ]  # fmt: skip
    assert (row.runs, row.controls) == (1, 2)
    table = outcomes(kept.examples, verdicts, "refusal_harmful")
    shares = []
    for name in ("aligned", "random-rows-0"):
        scored = [hit for hit in table[name].values() if hit is not None]
        shares.append(sum(scored) / len(scored))
    assert row.difference == pytest.approx(shares[0] - shares[1])
    assert row.difference != 0

"""Two processes at one run end where one ends. One launch serves every promise here."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from parallel_worker import FORMS, train
from parallel_worker import HOW as EACH
from safetensors.torch import load_file

import tiny_folders
from precise_shield.cli.launch import Launch
from precise_shield.core.errors import LaunchError, LostProcessError
from precise_shield.core.moments import Moments
from precise_shield.core.parallel import Crew, alone, crew
from precise_shield.identify.stats import Stats
from precise_shield.sandbox.manifest import write_manifest
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.context import started
from precise_shield.workflows.run import run_all

HERE = Path(__file__).parent
CONFIG = """
name: two
model: {{path: {model}, dtype: float32, device: cpu}}
data:
  sources: [{{source: sandbox, path: {data}, limit: 3}}]
  benign_targets: self_where_missing
  benign_tokens: 3
identify: {{p: 0.2, sweep: [], chosen: en/text, draws: 19, batch_size: 3}}
verify: {{random_sets: 2, per_cell: 1, panel: 2, factors: [0], dose_sets: 1, equal_importance: 0}}
align: {{epochs: 3, learning_rate: 0.02, batch_size: 4, micro_batch: 1, zero_shot: []}}
evaluate: {{max_new_tokens: 3, batch_size: 4, samples: 2, kl_rows: 2}}
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run in this process, with everything that it needs lying ready for others."""
    folder = tmp_path_factory.mktemp("one")
    model = tiny_folders.tiny_loaded("llava", folder / "llava").folder
    write_manifest(folder / "data", languages=["en"], modalities=["text"])
    text = CONFIG.format(model=model, data=folder / "data")
    (folder / "config.yaml").write_text(text)
    run = started(parse_config(text), folder / "run", quiet=True)
    return run, run_all(run), folder


@pytest.fixture(scope="module")
def two(one, tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    (out / "config.yaml").write_text((one[2] / "config.yaml").read_text())
    path = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
         "--num_machines=1", "--main_process_port=0", str(HERE / "parallel_worker.py"), str(out)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert (out / "well-0").is_file(), done.stderr[-3000:]
    assert (out / "well-1").is_file(), done.stderr[-3000:]
    return out, done


@pytest.mark.slow
@pytest.mark.parametrize("how", EACH)
@pytest.mark.parametrize("form", FORMS)
def test_two_processes_end_a_training_where_one_ends(form, how, two):
    """Dropout, clipping, the KL term and a smaller last step included. The one keeps nothing."""
    folder, _ = two
    held, losses = train(form, how.removesuffix("sharded").strip("-") or "whole")
    first, second = (load_file(folder / f"{form}-{how}-{rank}.safetensors") for rank in (0, 1))
    shared = first.pop("losses")
    assert torch.equal(shared, second.pop("losses"))
    torch.testing.assert_close(shared, torch.tensor(losses).double(), rtol=1e-6, atol=1e-6)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, value in held.items():
        torch.testing.assert_close(first[name], value, rtol=1e-6, atol=1e-6)
    assert losses[-1] != losses[0]
    assert (folder / f"{form}-{how}.ckpt").is_file()
    if form == "lora" and how.startswith("kept"):
        kept = [len(list(each.iterdir())) for each in (folder / f"cache-{how}").iterdir()]
        assert kept == [4, 4], "each batch once, by whichever process"


def stages(folder: Path, kind: str, run: str = "run") -> dict[str, Path]:
    """Finished stages of a kind, by key."""
    every = (folder / run / "stages" / kind).iterdir()
    return {path.name: path for path in every if (path / "stage.json").is_file()}


HOW = {"whole": "run", "sharded": "shares"}
"""Folders of two processes: each with the model, or each with a share of every block."""


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_two_processes_make_the_same_stages_under_the_same_keys(how, one, two):
    for kind in ["collect", "identify", "align", "respond", "verify", "explain", "drift"]:
        ours, theirs = stages(one[2], kind), stages(two[0], kind, HOW[how])
        assert theirs
        assert ours.keys() == theirs.keys(), kind
        for key, folder in theirs.items():
            files, others = (
                {path.name for path in each.iterdir()} - {"checkpoint"}
                for each in (folder, ours[key])
            )
            assert files == others, "nothing half-done is left"


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_two_processes_find_the_same_statistics_sets_and_answers(how, one, two):
    (stats,) = (p / "stats.safetensors" for p in stages(one[2], "collect").values())
    (other,) = (p / "stats.safetensors" for p in stages(two[0], "collect", HOW[how]).values())
    ours, theirs = Stats.load(stats), Stats.load(other)
    assert ours.moments.keys() == theirs.moments.keys()
    for place, moments in ours.moments.items():
        assert moments.count.sum() > 3, "one batch would be one process's alone"
        for field in ("count", "mean", "m2", "magnitude", "positive"):
            mine, shared = getattr(moments, field), getattr(theirs.moments[place], field)
            torch.testing.assert_close(shared, mine, rtol=1e-12, atol=1e-12)
    for kind, name in (("identify", "neurons.json"), ("respond", "responses.jsonl")):
        for key, folder in stages(two[0], kind, HOW[how]).items():
            said = (stages(one[2], kind)[key] / name).read_text()
            assert said == (folder / name).read_text(), (kind, key)


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_two_processes_train_the_same_rows_by_halves(how, one, two):
    for key, folder in stages(one[2], "align").items():
        other = stages(two[0], "align", HOW[how])[key]
        mine, shared = (
            [json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()]
            for each in (folder, other)
        )
        assert len(mine) == len(shared) > 3
        losses, others = ([step["loss"] for step in steps] for steps in (mine, shared))
        assert losses[-1] < losses[0]
        assert others == pytest.approx(losses, rel=1e-6)
        here, there = (load_file(each / "lowrank.safetensors") for each in (folder, other))
        for name, value in here.items():
            torch.testing.assert_close(there[name], value, rtol=1e-5, atol=1e-7)
        receipts = [json.loads((each / "receipt.json").read_text()) for each in (folder, other)]
        assert receipts[0]["untouched_sha256"] == receipts[1]["untouched_sha256"]


@pytest.mark.slow
def test_one_process_prints_and_writes_for_both(two):
    folder, done = two
    printed = json.JSONDecoder().raw_decode(done.stdout[done.stdout.index("{") :])
    assert printed[0]["model"]["model_type"] == "llava"
    assert done.stdout.count('"model_type"') == 1
    assert done.stderr.count("budget: ") == 1
    assert json.loads((folder / "run" / "summary.json").read_text())["receipts"]
    assert (folder / "run" / "report.html").is_file()


@pytest.mark.slow
def test_the_process_that_fails_says_why_and_ends_the_other(two):
    _, done = two
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1, done.stderr[-3000:]
    assert "error: planted in the second process." in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["c.yaml", "--bogus"], "No such option: --bogus"),
        (["c.yaml", "--limit", "none"], "Invalid value for '--limit'"),
        (["nothing.yaml"], "cannot read the configuration nothing.yaml"),
        (["c.yaml", "--set", "align.rnak=3"], "align.rnak"),
    ],
)
def test_a_mistake_in_a_command_is_said_once_and_ends_all_processes(words, said, tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG.format(model="m", data="d"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    path = os.pathsep.join(sys.path)
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "precise_shield", "run", *words],
            env={**os.environ, **place, "RANK": str(rank), "PYTHONPATH": path},
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    out = [each.communicate(timeout=120) for each in both]
    printed = "".join(text for pair in out for text in pair)
    assert printed.count(said) == 1, printed
    assert printed.lower().count("error: ") == 1
    assert [each.returncode for each in both] == [2, 2]


def test_alone_a_process_takes_everything():
    assert crew() == Crew(0, 1)
    assert Crew().share("abc") == [(0, "a"), (1, "b"), (2, "c")]
    shares = [Crew(rank, 2).share("abcde") for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(enumerate("abcde"))
    assert Crew(1, 2).share("a") == []
    assert Crew().total(1.0, 2.0) == (1.0, 2.0)
    assert Crew().gather({"a": 1}) == [{"a": 1}]


def test_inside_alone_there_is_no_crew(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert crew() == Crew(1, 2)
    with alone():
        assert crew() == Crew()
    assert crew() == Crew(1, 2)


def test_shards_of_moments_add_up_to_the_whole():
    """Two shards, one after the other, through a crew whose sums are taken by hand."""
    rows, folds = torch.randn(40, 3) + 1e3, torch.arange(40) % 5
    whole, shards = Moments(3, 6), [Moments(3, 6), Moments(3, 6)]
    whole.update(rows, folds)
    for shard, part in zip(shards, (slice(0, 13), slice(13, 40)), strict=True):
        shard.update(rows[part], folds[part])

    class Written(Crew):
        """Adds what the other shard would have sent, in the order of its messages."""

        def add(self, tensor):
            sent.append(tensor.clone())
            if answers:
                tensor += answers[len(sent) - 1]

    sent, answers = [], []
    first, second = (Moments(3, 6), Moments(3, 6))
    first.merge(shards[0])
    second.merge(shards[1])
    second.add_up(Written(1, 2))
    answers = [sent[0]]
    own, sent = sent, []
    # the second message depends on the first one's sum: send the deviations from the common mean
    count = shards[1].count.double()[:, None]
    answers.append(shards[1].m2 + count * (shards[1].mean - whole.mean).square())
    first.add_up(Written(0, 2))
    assert len(own) == len(sent) == 2
    for field in ("count", "mean", "m2", "magnitude", "positive"):
        torch.testing.assert_close(
            getattr(first, field), getattr(whole, field), rtol=1e-12, atol=1e-9
        )


def test_a_command_for_one_process_is_refused_under_torchrun():
    here = Launch.of({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    assert not here.speaks
    with pytest.raises(LaunchError, match="export works in one process"), here.joined(["export"]):
        pass
    for error in (
        LaunchError("said by the first"),
        LostProcessError("said by the one that failed"),
    ):
        with here.telling(error) as tells:
            assert not tells
    assert Launch.of({"WORLD_SIZE": "2"}) == Launch()
    assert yaml.safe_load(CONFIG.format(model="m", data="d"))["align"]["micro_batch"] == 1

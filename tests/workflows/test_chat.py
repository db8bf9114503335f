"""Before and after, side by side, and nothing of it stays."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from typer.testing import CliRunner

import tiny_folders
from precise_shield.align.sparse import SparseDelta, applied
from precise_shield.cli import app
from precise_shield.cli import chat as command
from precise_shield.core.errors import ConfigError, DataError, ReceiptError, StoreError
from precise_shield.core.sites import NeuronSet
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.models.generation import generate
from precise_shield.workflows.chat import Answers, chat
from precise_shield.workflows.run import read_summary


@pytest.fixture(scope="module")
def talk(finished):
    run, _ = finished
    return chat(run.folder, tokens=12, quiet=True)


@pytest.fixture(autouse=True)
def _as_it_came(request):
    yield
    if "talk" in request.fixturenames:
        talk = request.getfixturevalue("talk")
        talk.neurons_on, talk.image = True, None


def said_by(run, prompt, image=None):
    modality = "text" if image is None else "text_dominant"
    row = tiny_folders.example(1, prompt, image)
    assert row.modality == modality
    (answer,) = generate(run.loaded, [row], condition="base", max_new_tokens=12)
    return answer.text


def test_both_answers_are_those_of_the_two_models(finished, talk):
    """By another route: the run's own model, and the delta file put in by hand."""
    run, summary = finished
    delta = SparseDelta.load(run.folder / summary.receipts[0].delta)
    differ = 0
    for prompt in ("Where is the cat?", "Wo ist die Stadt?", "the king of the hill"):
        found = talk.ask(prompt)
        assert found.before == said_by(run, prompt)
        with applied(run.bound, delta):
            assert found.after == said_by(run, prompt)
        differ += found.before != found.after
    assert differ  # else the columns could be the same model


def test_the_switch_holds_the_tuned_neurons_at_zero_and_lets_them_go(finished, talk):
    """Every neuron of the model is taken, so that a random model's words must change."""
    run, _ = finished
    every = NeuronSet.of({site: range(spot.width) for site, spot in run.bound.sites.items()})
    talk = dataclasses.replace(talk, arm=dataclasses.replace(talk.arm, neurons=every))
    prompt = "Where is the cat?"
    before = talk.ask(prompt)
    assert talk.switch() is False
    off = talk.ask(prompt)
    with intervening(run.bound, every, suppress):
        assert off.before == said_by(run, prompt)
    assert off.before != before.before  # the switch is felt
    assert talk.switch() is True
    assert talk.ask(prompt) == before


def test_a_picture_is_shown_until_it_is_taken_away(finished, talk, tmp_path):
    run, _ = finished
    path = tiny_folders.draw(tmp_path / "red.png")
    plain = talk.ask("What is this?")
    talk.attach(path)
    seen = talk.ask("What is this?")
    assert seen.before == said_by(run, "What is this?", path) != plain.before
    with pytest.raises(DataError, match="no regular file"):
        talk.attach(str(tmp_path / "gone.png"))
    assert talk.image == path
    talk.attach(None)
    assert talk.ask("What is this?") == plain


def test_it_leaves_model_and_folder_as_they_were(finished, talk):
    run, _ = finished
    files = sorted(run.folder.rglob("*"))
    weights = {k: v.clone() for k, v in talk.run.loaded.model.state_dict().items()}
    talk.switch()
    talk.ask("Where is the cat?")
    after = talk.run.loaded.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in weights.items())
    assert sorted(run.folder.rglob("*")) == files


def test_a_run_without_alignment_or_with_another_model_is_a_sentence(finished, tmp_path):
    run, _ = finished
    with pytest.raises(StoreError, match=r"summary\.json is missing"):
        chat(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run.folder / "config.yaml", folder)
    summary = read_summary(run.folder)
    bare = summary.model_copy(update={"receipts": []})
    (folder / "summary.json").write_text(bare.model_dump_json())
    with pytest.raises(StoreError, match="no alignment to set beside"):
        chat(folder)
    with pytest.raises(StoreError, match="no alignment 'random-rows-0'"):
        chat(run.folder, condition="random-rows-0")
    with pytest.raises(ConfigError, match="0 tokens"):
        chat(run.folder, tokens=0)
    shutil.copytree(run.folder / "stages" / "align", folder / "stages" / "align")
    model = summary.model.model_copy(update={"fingerprint": "0" * 64})
    other = summary.model_copy(update={"model": model})
    (folder / "summary.json").write_text(other.model_dump_json())
    with pytest.raises(ReceiptError, match="other weights"):
        chat(folder, quiet=True)


def test_the_command_reads_a_pipe_line_by_line(finished, talk, tmp_path):
    run, _ = finished
    path = tiny_folders.draw(tmp_path / "red.png")
    lines = [
        "Where is the cat?", "", "/switch", "Where is the cat?", "/nonsense", "/image nowhere.png",
        "/switch", f"/image {path}", "What is this?", "/image", "/quit", "never asked",
    ]  # fmt: skip
    done = CliRunner().invoke(
        app, ["chat", str(run.folder), "--tokens", "12"], input="\n".join(lines)
    )
    assert done.exit_code == 0, done.output
    heads = [line[:8] for line in done.stdout.splitlines() if line.startswith(("before", "after"))]
    assert heads == ["before: ", "after:  "] * 3
    assert "tuned neurons off" in done.stdout
    assert f"picture: {path}" in done.stdout
    assert "picture: none" in done.stdout
    assert "no such command" in done.stderr
    assert "nowhere.png is no regular file" in done.stderr
    assert "tuned neurons; commands:" in done.stderr


def test_control_characters_of_an_answer_are_words(capsys):
    command.show_answers(Answers("a\x1b[2Jb\rc", "d\u202ee\nf", (False, True)))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert out.splitlines() == [
        "before: a⟦U+001B⟧[2Jb⟦U+000D⟧c", "after:  d⟦U+202E⟧e", "        f […]"
    ]  # fmt: skip

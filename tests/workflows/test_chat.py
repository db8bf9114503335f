"""Before and after, side by side, and nothing of it stays."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shutil
import unicodedata

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
from precise_shield.models.answers.generation import generate
from precise_shield.models.inputs.encoding import Turn, encode
from precise_shield.report.numbers.words import visible
from precise_shield.workflows.base.summary_file import read_summary
from precise_shield.workflows.chat import Answers, chat

cli_app = importlib.import_module("precise_shield.cli.app")  # the package has an `app` too


@pytest.fixture(scope="module")
def talk(finished):
    run, _ = finished
    return chat(run.folder, tokens=12, quiet=True)


@pytest.fixture(autouse=True)
def _as_it_came(request):
    yield
    if "talk" in request.fixturenames:
        talk = request.getfixturevalue("talk")
        talk.reset()
        talk.neurons_on, talk.single = True, False


def said_by(run, prompt, image=None, history=()):
    modality = "text" if image is None else "text_dominant"
    row = tiny_folders.example(1, prompt, image)
    assert row.modality == modality
    (answer,) = generate(run.loaded, [row], condition="base", max_new_tokens=12, history=history)
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
        talk.reset()
    assert differ  # else the columns could be the same model


def test_each_side_goes_on_from_its_own_answers(finished, talk, tmp_path):
    """Three turns with two pictures; the second route keeps both histories by hand."""
    run, summary = finished
    delta = SparseDelta.load(run.folder / summary.receipts[0].delta)
    red = tiny_folders.draw(tmp_path / "red.png")
    green = tiny_folders.draw(tmp_path / "green.png", (3, 190, 20))
    before, after = [], []
    asked = [
        ("Wo ist die Stadt?", None),
        ("the king of the hill", red),
        ("see", green),
        ("x", None),
    ]
    for prompt, image in asked:
        talk.attach(image)
        found = talk.ask(prompt)
        assert found.forgotten == 0
        assert found.before == said_by(run, prompt, image, before)
        with applied(run.bound, delta):
            assert found.after == said_by(run, prompt, image, after)
        before.append(Turn(prompt, found.before, image))
        after.append(Turn(prompt, found.after, image))
        assert talk.image is None  # it stays in its turn and is not shown again
    assert talk.histories == (before, after)
    assert before != after  # else the sides could share one history
    talk.reset()
    assert talk.ask("x").before == said_by(run, "x") != found.before


def test_what_no_longer_fits_the_context_is_forgotten_on_both_sides(finished, talk):
    run, _ = finished
    for prompt in ("Where is the cat?", "Wo ist die Stadt?"):
        talk.ask(prompt)
    kept = [history[1:] for history in talk.histories]
    row = tiny_folders.example(1, "the king")
    needed = max(len(encode(run.loaded, [row], history=h).labels[0]) for h in kept)
    text = talk.run.loaded.model.config.get_text_config()
    most, text.max_position_embeddings = text.max_position_embeddings, needed + talk.tokens
    try:
        found = talk.ask("the king")
        assert found.forgotten == 1
        assert found.before == said_by(run, "the king", history=kept[0])
        assert [len(history) for history in talk.histories] == [2, 2]
        past = talk.histories
        with pytest.raises(DataError, match="was made for"):
            talk.ask("the king of the hill " * 40)
        assert talk.histories == past  # what failed is no part of the conversation
    finally:
        text.max_position_embeddings = most


def test_the_switch_holds_the_tuned_neurons_at_zero_and_lets_them_go(finished, talk):
    """Every neuron of the model is taken, so that a random model's words must change."""
    run, _ = finished
    every = NeuronSet.of({site: range(spot.width) for site, spot in run.bound.sites.items()})
    talk = dataclasses.replace(talk, arm=dataclasses.replace(talk.arm, neurons=every))
    prompt = "Where is the cat?"
    talk.single = True
    before = talk.ask(prompt)
    assert talk.switch() is False
    off = talk.ask(prompt)
    with intervening(run.bound, every, suppress):
        assert off.before == said_by(run, prompt)
    assert off.before != before.before  # the switch is felt
    assert talk.switch() is True
    assert talk.ask(prompt) == before


def test_alone_each_prompt_sees_the_picture_until_it_is_taken_away(finished, talk, tmp_path):
    run, _ = finished
    talk.single = True
    path = tiny_folders.draw(tmp_path / "red.png")
    plain = talk.ask("What is this?")
    talk.attach(path)
    seen = talk.ask("What is this?")
    assert seen.before == said_by(run, "What is this?", path) != plain.before
    assert talk.ask("What is this?") == seen
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
        "/switch", f"/image {path}", "What is this?", "/reset", "/quit", "never asked",
    ]  # fmt: skip
    done = CliRunner().invoke(
        app, ["chat", str(run.folder), "--tokens", "12"], input="\n".join(lines)
    )
    assert done.exit_code == 0, done.output
    heads = [line[:8] for line in done.stdout.splitlines() if line.startswith(("before", "after"))]
    assert heads == ["before: ", "after:  "] * 3
    assert "tuned neurons off" in done.stdout
    assert f"picture: {path}" in done.stdout
    assert "a new conversation" in done.stdout
    assert "no such command" in done.stderr
    assert "nowhere.png is no regular file" in done.stderr
    assert "tuned neurons; commands:" in done.stderr


def test_a_picture_can_be_named_as_terminals_write_it(talk, tmp_path, capsys, monkeypatch):
    path = tiny_folders.draw(tmp_path / "my red.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    escaped = path.replace(" ", "\\ ")
    for typed in (path, f"'{path}'", f'"{path}"', escaped, "~/my\\ red.png"):
        command.answered(talk, f"/image {typed}")
        assert talk.image == path
        assert capsys.readouterr().out == f"picture: {path}, with the next line\n"
    command.answered(talk, "/image 'open")  # a quote that is not closed is a name like any other
    assert "picture 'open is no regular file" in capsys.readouterr().err


def test_a_picture_that_fails_leaves_the_one_before_and_says_so(talk, tmp_path, capsys):
    path = tiny_folders.draw(tmp_path / "red.png")
    talk.attach(path)
    (tmp_path / "text.png").write_text("no picture")
    for name, why in (("gone.png", "no regular file"), ("text.png", "none of PNG")):
        command.answered(talk, f"/image {tmp_path / name}")
        said = capsys.readouterr()
        assert why in said.err
        assert f"picture: {path}, with the next line, as before" in said.err
        assert talk.image == path
    command.answered(talk, "/image")
    assert capsys.readouterr().out == "picture: none\n"
    command.answered(talk, "/image gone.png")
    assert "as before" not in capsys.readouterr().err
    talk.single = True
    command.answered(talk, f"/image {path}")
    assert "with every line" in capsys.readouterr().out


def test_a_text_only_model_says_that_it_sees_no_picture(talk, tmp_path, capsys):
    path = tiny_folders.draw(tmp_path / "red.png")
    blind = dataclasses.replace(talk, run=dataclasses.replace(talk.run))
    blind.run.__dict__["loaded"] = dataclasses.replace(talk.run.loaded, processor=None)
    command.answered(blind, f"/image {path}")
    assert "text-only model and sees no picture; ask in words alone" in capsys.readouterr().err
    assert blind.image is None


def test_control_characters_of_an_answer_are_words(capsys):
    command.show_answers(Answers("a\x1b[2Jb\rc", "d\u202ee\nf", (False, True)))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert out.splitlines() == [
        "before: a⟦U+001B⟧[2Jb⟦U+000D⟧c", "after:  d⟦U+202E⟧e", "        f […]"
    ]  # fmt: skip


HOSTILE = (
    "<script>alert(1)</script>", "[bold red]x[/bold red][link=http://x]y[/link]",
    "\x1b]8;;http://x\x07link\x1b]8;;\x07", "\x9b2J\x07\x08\x7f", "\u2067abc\u2069\u200f\u2028",
    "x\nafter:  forged", "\ud800", "{{ 7*7 }}",
)  # fmt: skip


STYLE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_answers_are_data_in_the_terminal(terminal, capsys, monkeypatch):
    """In a pipe and in two columns: no sign acts, no markup is read, no line is forged."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "400")
    command.show_answers(Answers("calm", "ok", (False, False)))
    style = STYLE.findall(capsys.readouterr().out)  # the headings' own
    for text in HOSTILE:
        command.show_answers(Answers(text, "ok", (False, False)))
        out = capsys.readouterr().out
        assert STYLE.findall(out) == style
        out = STYLE.sub("", out)
        assert not [c for c in out if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs")]
        assert sum(line.startswith("after:  ") for line in out.splitlines()) == (not terminal)
        for line in text.splitlines():
            assert visible(line) in out  # it is there, as text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_megabyte_answer_is_cut_with_its_count(terminal, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "400")
    command.show_answers(Answers("<\u202e&" * 400_000, "ok", (True, False)))
    out = capsys.readouterr().out
    assert len(out) < 20 * command.LONGEST
    assert f"{1_200_000 - command.LONGEST:,} characters left out" in out


def test_an_error_that_quotes_a_model_or_a_file_is_data_in_the_terminal(monkeypatch, capsys):
    """Names, templates and judges' replies come from others, and errors repeat them."""

    def failing(**_):
        raise StoreError("the judge said \x1b]0;owned\x07\u202eno\nand more")

    monkeypatch.setattr(cli_app, "app", failing)
    with pytest.raises(SystemExit) as ended:
        cli_app.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "error: the judge said ⟦U+001B⟧]0;owned⟦U+0007⟧⟦U+202E⟧no\nand more" in said

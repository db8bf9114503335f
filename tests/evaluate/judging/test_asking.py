"""Model judges over real HTTP: what passes is retried, what does not is said, nothing twice."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from io import BytesIO
from urllib.parse import quote

import pytest
from PIL import Image

import tiny_folders
from data.making import example
from judge_server import completion, serving
from precise_shield.core.errors import ConfigError, DataError, JudgeError, LoadingError
from precise_shield.core.records import Response
from precise_shield.evaluate.judging.asking import Cache, ModelJudge
from precise_shield.evaluate.judging.endpoint import Endpoint
from precise_shield.evaluate.judging.formats import FORMATS
from precise_shield.evaluate.judging.judges import Judge
from precise_shield.evaluate.judging.local import LocalModel
from precise_shield.evaluate.servers.server import LONGEST_QUOTE, Pace
from precise_shield.models.answers.asking import rendered
from precise_shield.models.loading.spec import ModelSpec
from precise_shield.workflows.answer.asked import identified

GUARD = FORMATS["qwen3guard"]
UNSAFE = "Safety: Unsafe\nCategories: Violent\nRefusal: No"
TURNS = [
    {"role": "user", "content": "May I {tease} it?"},
    {"role": "assistant", "content": "No."},
]
SAFE = "Safety: Safe\nCategories: None\nRefusal: No"


def pairs(count, text="Answer number {}.", **fields):
    rows = [example(i, **fields) for i in range(count)]
    return [(row, Response(row.id, "base", text.format(i), 4, True)) for i, row in enumerate(rows)]


def judge(url, tmp_path, how=GUARD, **options):
    waited = []
    endpoint = Endpoint(url, "guard", sleep=waited.append, **options)
    return ModelJudge("guard", how, endpoint, Cache(tmp_path / "cache")), waited


def test_every_pair_is_asked_once_and_a_second_time_comes_from_the_cache(tmp_path):
    def answer(number, path, body, headers):
        said = body["messages"][-1]["content"]
        return completion(UNSAFE if said.startswith("Answer number 1") else SAFE)

    asked = [*pairs(5), (pairs(1)[0][0], Response("r0", "aligned", "Answer number 0.", 4, True))]
    with serving(answer) as (url, log):
        reader, _ = judge(url, tmp_path)
        assert isinstance(reader, Judge)
        cost = reader.cost(asked)
        assert (cost.calls, cost.cached, len(log)) == (5, 0, 0)
        verdicts = reader.judge(asked)
        assert len(log) == 5
        again = reader.judge(asked)
        assert len(log) == 5
        assert (reader.cost(asked).calls, reader.cost(asked).cached) == (0, 5)
    assert verdicts == again
    assert [v.label for v in verdicts] == ["safe", "unsafe", "safe", "safe", "safe", "safe"]
    assert verdicts[-1].condition == "aligned"
    path, body, _ = log[0]
    assert path == "/v1/chat/completions"
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant"]
    assert (body["temperature"], body["max_tokens"]) == (0, GUARD.tokens)


def test_another_version_model_or_answer_is_asked_anew(tmp_path):
    with serving(lambda *_: completion(SAFE)) as (url, log):
        reader, _ = judge(url, tmp_path)
        reader.judge(pairs(1))
        for other in (
            judge(url, tmp_path, how=replace(GUARD, version="another"))[0],
            ModelJudge("guard", GUARD, Endpoint(url, "other"), reader.cache),
        ):
            before = len(log)
            other.judge(pairs(1))
            assert len(log) == before + 1
        reader.judge(pairs(1, "Another answer {}."))
        assert len(log) == 4


def test_errors_that_pass_are_retried_with_growing_patience(tmp_path):
    first = {
        0: (429, {"Retry-After": "7"}, b"slow down"),
        1: (500, {}, b"oops"),
        2: (200, {}, b"<html>not json"),
        3: (200, {}, json.dumps({"choices": []}).encode()),
        4: (None, {}, b""),
    }
    with serving(lambda number, *_: first.get(number, completion(UNSAFE))) as (url, log):
        reader, waited = judge(url, tmp_path, parallel=1)
        (verdict,) = reader.judge(pairs(1))
    assert (verdict.label, len(log)) == ("unsafe", 6)
    assert waited[0] == 7
    assert waited[1] < waited[2] < waited[3] < waited[4] <= 60


def test_a_server_that_never_recovers_is_an_error_that_keeps_what_was_answered(tmp_path):
    def answer(number, path, body, headers):
        return completion(SAFE) if number < 3 else (503, {}, b"down for today")

    with serving(answer) as (url, _):
        reader, waited = judge(url, tmp_path, parallel=1, retries=2)
        with pytest.raises(JudgeError, match=r"failed 3 times, at last with: status 503: down"):
            reader.judge(pairs(8))
        assert len(waited) == 2
        assert reader.cost(pairs(8)).calls == 5


def test_a_refused_question_is_not_retried(tmp_path):
    with serving(lambda *_: (401, {}, b"who are you")) as (url, log):
        reader, waited = judge(url, tmp_path, parallel=1)
        with pytest.raises(JudgeError, match="status 401: who are you"):
            reader.judge(pairs(3))
    assert (len(log), waited) == (1, [])


def test_a_call_that_takes_too_long_is_given_up_and_tried_again(tmp_path):
    def answer(number, *_):
        if number == 0:
            time.sleep(1.0)
        return completion(SAFE)

    with serving(answer) as (url, log):
        reader, waited = judge(url, tmp_path, timeout=0.3, parallel=1)
        assert [v.label for v in reader.judge(pairs(1))] == ["safe"]
        assert (len(log), len(waited)) == (2, 1)


def test_withheld_content_and_free_talk_are_unclear(tmp_path):
    withheld = (200, {}, json.dumps({"choices": [{"message": {"content": None}}]}).encode())
    with serving(lambda number, *_: [withheld, completion("As an AI,")][number]) as (url, _):
        reader, _ = judge(url, tmp_path, parallel=1)
        assert [v.label for v in reader.judge(pairs(2))] == ["unclear", "unclear"]


def test_the_key_comes_from_the_environment_and_is_written_nowhere(tmp_path, monkeypatch):
    with serving(lambda *_: completion(SAFE)) as (url, log):
        reader, _ = judge(url, tmp_path, key_env="TEST_JUDGE_KEY")
        monkeypatch.delenv("TEST_JUDGE_KEY", raising=False)
        with pytest.raises(JudgeError, match="TEST_JUDGE_KEY is not set"):
            reader.judge(pairs(1))
        monkeypatch.setenv("TEST_JUDGE_KEY", "sesame-4711")
        reader.judge(pairs(1))
        assert log[-1][2]["Authorization"] == "Bearer sesame-4711"
    files = [path.read_text() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert files
    assert not any("sesame" in text for text in [*files, reader.describe(), repr(reader.asker)])


def test_a_key_that_a_server_repeats_or_that_no_header_can_hold_is_in_no_error(
    tmp_path, monkeypatch
):
    said = b"no such key: sesame-4711"
    with serving(lambda *_: (401, {}, said)) as (url, log):
        reader, _ = judge(url, tmp_path, key_env="TEST_JUDGE_KEY", parallel=1)
        monkeypatch.setenv("TEST_JUDGE_KEY", "sesame-4711\n")  # as $(cat file) would not leave it
        with pytest.raises(JudgeError, match=r"no such key: \*\*\*") as found:
            reader.judge(pairs(1))
        assert "sesame" not in str(found.value)
        assert len(log) == 1
        monkeypatch.setenv("TEST_JUDGE_KEY", "sesame\n4711")
        with pytest.raises(JudgeError, match="TEST_JUDGE_KEY") as found:
            reader.judge(pairs(1))
        assert "sesame" not in str(found.value)
        assert len(log) == 1


KEY = "sesame/4711+opens=the-door"
SPELLINGS = (
    KEY, quote(KEY, safe=""), KEY.replace("/", "\\/"), base64.b64encode(f":{KEY}".encode()).decode()
)  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("padding", [0, LONGEST_QUOTE - 8])
def test_an_echoed_header_or_key_is_in_no_message_however_it_is_written_or_cut(
    spelling, padding, tmp_path, monkeypatch
):
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)

    def echo(number, path, body, headers):
        assert headers["Authorization"] == f"Bearer {KEY}"  # there was something to hide
        said = {"pad": "x" * padding, "message": spelling}
        said |= {"Authorization": "Basic other-secret", "note": "Bearer other-secret"}
        return [401, 500, 200][number], {}, json.dumps(said).encode()

    with serving(echo) as (url, log):
        reader, _ = judge(url, tmp_path, key_env="TEST_JUDGE_KEY", parallel=1, retries=0)
        for _ in range(3):
            with pytest.raises(JudgeError, match=r"status 401|status 500|no completion") as found:
                reader.judge(pairs(1))
            said = str(found.value)
            assert not any(piece in said for piece in (*SPELLINGS, KEY[:6], "other-secret"))
            assert "***" in said or padding
        assert len(log) == 3
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_a_key_in_a_reply_is_neither_cached_nor_stored_and_a_word_for_a_key_is_no_key(
    tmp_path, monkeypatch
):
    with serving(lambda *_: completion(f"{SAFE}\nYour key is {KEY}, it is EMPTY.")) as (url, _):
        for place, key, kept in (("a", KEY, "key is ***, it is EMPTY"), ("b", "EMPTY", KEY)):
            monkeypatch.setenv("TEST_JUDGE_KEY", key)
            reader, _ = judge(url, tmp_path / place, key_env="TEST_JUDGE_KEY")
            assert [verdict.label for verdict in reader.judge(pairs(1))] == ["safe"]
            (path,) = (tmp_path / place / "cache").rglob("*.json")
            assert kept in path.read_text()
            assert (KEY in path.read_text()) == (place == "b")


def test_other_weights_in_a_folder_of_the_same_name_are_another_judge(tmp_path):
    names = []
    for place, content in (("a", b"one"), ("b", b"two"), ("c", b"one")):
        folder = tmp_path / place / "judge"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(content)
        names.append(LocalModel(ModelSpec(str(folder))).describe())
    assert names[0] == names[2] != names[1]
    assert names[0].startswith("judge (files ")
    assert "/" not in names[0]
    half = LocalModel(ModelSpec(str(tmp_path / "a" / "judge"), dtype="bfloat16")).describe()
    assert half == f"{names[0]} in bfloat16"


def test_a_redirect_does_not_carry_the_key_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_JUDGE_KEY", "sesame-4711")
    with serving(lambda *_: completion(SAFE)) as (other, seen):
        away = (302, {"Location": other + "/chat/completions"}, b"")
        with serving(lambda *_: away) as (url, _):
            reader, _ = judge(url, tmp_path, key_env="TEST_JUDGE_KEY", parallel=1)
            with pytest.raises(JudgeError, match="status 302"):
                reader.judge(pairs(1))
    assert seen == []


@pytest.mark.parametrize(
    "url", ["ftp://x/v1", "localhost", "http://me:secret@x/v1", "http://x?k=1"]
)
def test_an_address_that_cannot_be_or_holds_a_key_is_refused(url):
    with pytest.raises(ConfigError, match=r"http://|must hold no key"):
        Endpoint(url, "m")


def test_calls_are_paced_evenly():
    now, waited = [0.0], []

    def sleep(seconds):
        waited.append(round(seconds, 3))
        now[0] += seconds

    pace = Pace(120.0, sleep, lambda: now[0])
    for _ in range(4):
        pace.wait()
    assert waited == [0.5, 0.5, 0.5]
    Pace(None, sleep).wait()
    assert len(waited) == 3


def test_raw_formats_go_to_the_completion_route_and_harm_alone_is_refined(tmp_path):
    """A judge that knows no refusals says safe; the phrases tell which safe ones refuse."""
    asked = pairs(3, "I'm sorry, but I can't help with that.")
    asked[1] = (asked[1][0], Response(asked[1][0].id, "base", "Here you go, friend.", 4, True))
    asked[2] = (asked[2][0], Response(asked[2][0].id, "base", "", 0, True))
    with serving(lambda n, path, body, h: completion("no", path)) as (url, log):
        reader, _ = judge(url, tmp_path, how=FORMATS["harmbench"])
        labels = [v.label for v in reader.judge(asked)]
    assert labels == ["refusal", "safe", "degenerate"]
    assert {path for path, _, _ in log} == {"/v1/completions"}
    assert len(log) == 2
    assert log[0][1]["prompt"].startswith("[INST] <<SYS>>")
    assert "knows harm alone" in reader.describe()
    with pytest.raises(DataError, match="is paired with"):
        reader.judge([(asked[0][0], asked[1][1])])


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("qwen3guard", "qwen3"),
        ("llama_guard_3", "llama"),
        ("polyguard", "qwen2"),
        ("wildguard", "mistral"),
        ("shieldgemma", "gemma2"),
        ("harmbench", "llama"),
    ],
)
def test_local_weights_answer_what_generate_answers(name, family, tmp_path):
    """Each guard's own architecture, random weights: our decoding, and the library's plain path."""
    loaded = tiny_folders.tiny_loaded(family, tmp_path / "m")
    how = FORMATS[name]
    local = LocalModel(ModelSpec(str(loaded.folder), dtype="float32", device="cpu"), 2)
    asked = pairs(3)
    questions = [q for row, said in asked for q in how.ask(row, said.text)]
    replies = {}
    local.ask(questions, how, lambda number, text: replies.__setitem__(number, text))
    assert sorted(replies) == list(range(len(questions)))
    question = questions[1]
    if question.turns:
        text = loaded.tokenizer.apply_chat_template(
            [{"role": role, "content": words} for role, words in question.turns],
            chat_template=loaded.template,
            tokenize=False,
            add_generation_prompt=how.opens_answer,
            enable_thinking=False,
        )
    else:
        text = (loaded.tokenizer.bos_token or "") + question.raw
    ids = loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    out = loaded.model.generate(
        **ids, max_new_tokens=how.tokens, do_sample=False, eos_token_id=list(loaded.stop_ids)
    )
    new = out[0, ids["input_ids"].shape[1] :]
    assert replies[1] == loaded.tokenizer.decode(new, skip_special_tokens=True).strip()
    reader = ModelJudge("local", how, local, Cache(tmp_path / "cache"))
    assert all(verdict.judge == "local" for verdict in reader.judge(asked))


def test_a_template_that_knows_words_as_parts_only_loses_none_and_one_that_drops_words_is_refused(
    tmp_path,
):
    """Llama-Guard-3-1B's way: a turn's plain words are left out without an error."""
    loaded = tiny_folders.tiny_loaded("llama", tmp_path / "m")
    turn = "{% for m in messages %}<|{{ m.role }}|>"
    part = "{% for p in m.content %}{{ p.text }}{% endfor %}"
    plain = rendered(loaded, TURNS, opens_answer=False)
    for words, kept in ((part, TURNS), ("{{ m.content[0].text }}", TURNS), ("", None)):
        other = replace(loaded, template=f"{turn}{words}<|end|>\n{{% endfor %}}")
        if kept is None:
            with pytest.raises(LoadingError, match="leaves out words"):
                rendered(other, TURNS, opens_answer=False)
        else:
            assert rendered(other, kept, opens_answer=False) == plain
    assert "{tease}" in plain
    bare = loaded.tokenizer.apply_chat_template(
        TURNS, chat_template=f"{turn}{part}{{% endfor %}}", tokenize=False
    )
    assert "tease" not in bare


def test_a_server_that_reports_other_weights_or_a_new_revision_is_another_judge(tmp_path):
    cache, rows = (
        Cache(tmp_path / "cache"),
        [{"id": "guard", "root": "org/guard", "permission": []}],
    )
    with serving(lambda *_: completion(SAFE), rows) as (url, _):
        named = [identified(Endpoint(url, "guard"), cache).describe() for _ in range(2)]
        assert named[0] == named[1]  # although `created` is another time at each call
        rows[0]["root"] = "org/guard-tuned"
        other = identified(Endpoint(url, "guard"), cache).describe()
        dated = identified(Endpoint(url, "guard", revision="2026-11"), cache).describe()
        assert len({*named, other, dated}) == 3
        assert "at 2026-11" in dated
        assert "org/" not in other
        unknown = identified(Endpoint(url, "another"), cache)
        assert unknown.describe() == "another through a server"
    assert identified(Endpoint(url, "guard", timeout=1.0), cache).describe() == other  # it is down


GUARDS = ["llama_guard_4", "llama_guard_3_vision", "rubric"]


@pytest.mark.parametrize("name", GUARDS)
def test_a_judge_that_sees_is_sent_the_picture_in_the_users_turn(name, tmp_path):
    Image.new("RGB", (3, 2), "red").save(tmp_path / "p.jpg")
    fields = {"image": str(tmp_path / "p.jpg"), "modality": "image_dominant", "form": "visual"}
    seeing, blind = pairs(1, **fields), pairs(1)
    with serving(lambda *_: completion("safe")) as (url, log):
        for pictures in (True, False):
            cache, endpoint = Cache(tmp_path / str(pictures)), Endpoint(url, "guard", parallel=1)
            reader = ModelJudge("g", FORMATS[name], endpoint, cache, pictures)
            reader.judge([*seeing, *blind])
    sent = [body["messages"] for _, body, _ in log]
    assert [len(turns) for turns in sent] == ([2] if name != "rubric" else [1]) * 3
    picture, words = sent[0][0]["content"]
    assert words["text"] == sent[1][0]["content"]
    kind, _, data = picture["image_url"]["url"].partition("base64,")
    assert kind == "data:image/png;"
    with Image.open(BytesIO(base64.b64decode(data))) as shown:
        assert (shown.size, shown.mode) == ((3, 2), "RGB")
    assert len(sent) == 3  # without pictures both questions are one
    assert "sees no pictures" in reader.describe()


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_judge_that_sees_no_picture_is_told_what_the_picture_asks(name, tmp_path):
    """With the picture it is shown what the model was shown."""
    row = example(prompt="See the list.", request="Tease the dragon?", image="p.png")
    for pictures, words, others in ((False, "dragon", "list"), (True, "list", "dragon")):
        nobody = Endpoint("http://127.0.0.1:9/v1", "guard")
        reader = ModelJudge("g", FORMATS[name], nobody, Cache(tmp_path), pictures)
        for asked in reader._questions(row, "An answer."):
            text = asked.raw + "".join(said for _, said in asked.turns)
            assert words in text.replace("a list", "")
            assert others not in text
            assert (asked.image == "p.png") == pictures


def test_a_local_judge_that_sees_answers_what_the_processor_and_generate_answer(tmp_path):
    loaded = tiny_folders.tiny_loaded("llava", tmp_path / "m")
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png")
    rows = [
        (row, said, str(tmp_path / f"{name}.png"))
        for name in "ab"
        for row, said in pairs(1, modality="image_dominant", form="visual")
    ]
    how = FORMATS["llama_guard_4"]
    local = LocalModel(ModelSpec(str(loaded.folder), dtype="float32", device="cpu"), 4)
    questions = [replace(how.ask(row, said.text)[0], image=image) for row, said, image in rows]
    questions.append(replace(questions[0], image=None))
    replies = {}
    local.ask(questions, how, lambda number, text: replies.__setitem__(number, text))
    content = [{"type": "image"}, {"type": "text", "text": rows[1][0].prompt}]
    turns = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": rows[1][1].text}]},
    ]
    text = loaded.tokenizer.apply_chat_template(
        turns, chat_template=loaded.template, tokenize=False, add_generation_prompt=False
    )
    inputs = loaded.processor(text=text, images=Image.open(rows[1][2]), return_tensors="pt")
    out = loaded.model.generate(
        **inputs, max_new_tokens=how.tokens, do_sample=False, eos_token_id=list(loaded.stop_ids)
    )
    new = out[0, inputs["input_ids"].shape[1] :]
    assert replies[1] == loaded.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert len({replies[i] for i in range(3)}) > 1  # the picture was looked at
    words = tiny_folders.tiny_loaded("llama", tmp_path / "words")
    deaf = LocalModel(ModelSpec(str(words.folder), dtype="float32", device="cpu"))
    with pytest.raises(LoadingError, match="sees no pictures"):
        deaf.ask(questions[:1], how, lambda *_: None)

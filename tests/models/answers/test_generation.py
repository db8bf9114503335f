"""Answers are greedy, complete and the same in any batch."""

import dataclasses

import pytest
import torch

from precise_shield.core.errors import ConfigError, DataError, NumericError, UserError
from precise_shield.core.records import Example
from precise_shield.models.answers.decoding import Choice, decode, decode_by_library
from precise_shield.models.answers.generation import _stream, generate
from precise_shield.models.inputs.encoding import encode
from tiny import TEXT_CONFIGS
from tiny_folders import EYES, example

OWN_WAYS = {"mm_token_type_ids", "cross_attention_mask"}
FAMILIES = (*TEXT_CONFIGS, *EYES)


@pytest.fixture(params=FAMILIES)
def loaded(request, loaded_once):
    return loaded_once(request.param)


def requests(loaded, asked, shown):
    return [asked[0], *shown, *asked[1:]] if loaded.has_images else asked


def by_hand(loaded, one, limit):
    """The likeliest token, again and again, with no cache and no batch."""
    batch = encode(loaded, [one])
    said = []
    while len(said) < limit and (not said or said[-1] not in loaded.stop_ids):
        inputs = dict(batch.inputs)
        new = torch.tensor([said], dtype=torch.long)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], new], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs.pop("position_ids", None)
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], torch.zeros_like(new)], 1)
        if "cross_attention_mask" in inputs:
            mask = inputs["cross_attention_mask"]
            inputs["cross_attention_mask"] = torch.cat(
                [mask, mask[:, -1:].expand(-1, len(said), -1, -1)], 1
            )
        with torch.no_grad():
            said.append(int(loaded.model(**inputs, use_cache=False).logits[0, -1].argmax()))
    return said


def test_answers_are_the_greedy_ones_whatever_the_batch(loaded, asked, shown):
    examples = requests(loaded, asked, shown)
    answers = generate(loaded, examples, condition="base", max_new_tokens=6)
    assert answers == generate(loaded, examples, condition="base", max_new_tokens=6, batch_size=1)
    assert [answer.example for answer in answers] == [one.id for one in examples]
    for one, answer in zip(examples, answers, strict=True):
        said = by_hand(loaded, one, 6)
        assert answer.tokens == len(said)
        assert answer.text == loaded.tokenizer.decode(said, skip_special_tokens=True).strip()
    assert len({answer.text for answer in answers}) > 1  # the prompts do matter


def test_an_answer_ends_at_a_stop_token_and_says_so(loaded_once, asked):
    loaded = loaded_once("llama")
    first = by_hand(loaded, asked[0], 4)
    stopping = dataclasses.replace(loaded, stop_ids=(loaded.end_id, first[2]))
    (short,) = generate(stopping, asked[:1], condition="base", max_new_tokens=4)
    (long,) = generate(loaded, asked[:1], condition="base", max_new_tokens=4)
    stop = first.index(first[2])
    assert (short.finished, short.tokens) == (True, stop + 1)
    assert short.text == loaded.tokenizer.decode(first[:stop]).strip()
    assert (long.finished, long.tokens) == (False, 4)
    together = generate(stopping, asked, condition="base", max_new_tokens=4)
    assert together[0] == short  # neighbours that go on leave no padding behind


@pytest.mark.parametrize("model_type", ["llama", "qwen2_vl"])
def test_the_models_own_generation_habits_are_put_aside(model_type, loaded_once, asked):
    loaded = loaded_once(model_type)
    plain = generate(loaded, asked, condition="base", max_new_tokens=8)
    habits = loaded.model.generation_config
    try:
        habits.update(repetition_penalty=9.0, do_sample=True, temperature=3.0, min_new_tokens=3)
        assert generate(loaded, asked, condition="base", max_new_tokens=8) == plain
        assert loaded.model.generation_config is habits
        inputs = encode(loaded, asked[:1]).inputs
        out = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        new = out[0, inputs["input_ids"].shape[1] :]
        said = loaded.tokenizer.decode(new, skip_special_tokens=True)
        assert said.strip() != plain[0].text  # they would have mattered
    finally:
        habits.update(repetition_penalty=None, do_sample=None, temperature=None)
        habits.update(min_new_tokens=None)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_librarys_own_generate_says_the_same(model_type, loaded_once, asked, shown):
    """Our loop drops rows that have ended; the library's carries them to the end."""
    loaded = loaded_once(model_type)
    examples = shown if loaded.has_images else asked
    habit = by_hand(loaded, examples[0], 5)
    stopping = dataclasses.replace(loaded, stop_ids=(loaded.end_id, habit[2]))
    batch = encode(stopping, examples, side="left")
    with torch.inference_mode():
        theirs = decode_by_library(stopping, batch, Choice([], 0.0), 9)
        assert min(len(row) for row in theirs) <= 3 < max(len(row) for row in theirs) + 9
        if not OWN_WAYS & batch.inputs.keys():
            assert decode(stopping, batch, Choice([], 0.0), 9) == theirs


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "llava", "gemma3"])
def test_dropping_rows_leaves_the_others_as_they_are(model_type, loaded_once, asked):
    """Stop where two rows do early: the rest must go on as if alone, draws included."""
    loaded = loaded_once(model_type)
    options = {"condition": "base", "max_new_tokens": 9, "temperature": 1.0}
    examples = asked  # the first two are the longest, so they come first in a batch
    early = []
    with torch.inference_mode():
        for one in examples[:2]:
            choice = Choice([_stream(0, one.id)], 1.0)
            (row,) = decode(loaded, encode(loaded, [one], side="left"), choice, 2)
            early.append(row[-1])
    stopping = dataclasses.replace(loaded, stop_ids=(loaded.end_id, *early))
    together = generate(stopping, examples, **options)
    assert together == generate(stopping, examples, **options, batch_size=1)
    lengths = [answer.tokens for answer in together]
    assert max(lengths[:2]) <= 2 < 5 < max(lengths[2:])


def test_rows_that_have_ended_cost_nothing_more(loaded_once, asked, monkeypatch):
    loaded = loaded_once("llama")
    rows = [by_hand(loaded, one, 9) for one in asked]
    short = {row[1] for row in rows[:3]}
    stopping = dataclasses.replace(loaded, stop_ids=(loaded.end_id, *short))
    forward, sizes = loaded.model.forward, []

    def counted(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(loaded.model, "forward", counted)
    answers = generate(stopping, asked, condition="base", max_new_tokens=9)
    assert sizes[0] == len(asked)
    assert sizes[-1] < len(asked)
    lengths = [answer.tokens for answer in answers]
    assert len(sizes) == max(lengths) > min(lengths)


def test_an_output_that_is_no_number_is_an_error(loaded_once, asked, monkeypatch):
    for model_type in ("llama", "qwen2_vl"):
        loaded = loaded_once(model_type)
        head = loaded.model.get_output_embeddings()
        kept = head.weight.data.clone()
        head.weight.data.fill_(float("nan"))
        with pytest.raises(NumericError, match="output is NaN"):
            generate(loaded, asked, condition="base", max_new_tokens=2)
        head.weight.data.copy_(kept)


@pytest.mark.parametrize("model_type", ["llama", "llava", "qwen2_vl"])
def test_draws_belong_to_the_example_and_the_seed(model_type, loaded_once, asked):
    loaded = loaded_once(model_type)
    options = {"condition": "base", "max_new_tokens": 6, "temperature": 1.0}
    drawn = generate(loaded, asked, **options, seed=1)
    assert drawn == generate(loaded, asked, **options, seed=1, batch_size=2)
    assert drawn == generate(loaded, asked[::-1], **options, seed=1)[::-1]
    assert drawn != generate(loaded, asked, **options, seed=2)
    assert drawn != generate(loaded, asked, condition="base", max_new_tokens=6)
    twins = [example(number, "the same words") for number in range(4)]
    assert len({answer.text for answer in generate(loaded, twins, **options)}) > 1


def test_draws_follow_the_softmax_at_the_temperature(loaded_once):
    loaded = loaded_once("llama")
    many = [example(number, "Hello") for number in range(1500)]
    drawn = generate(
        loaded, many, condition="b", max_new_tokens=1, temperature=0.25, batch_size=1500
    )
    inputs = encode(loaded, many[:1]).inputs
    with torch.no_grad():
        logits = loaded.model(**inputs).logits[0, -1].double()
    share = (logits / 0.25).softmax(-1)
    best = share.topk(8).indices.tolist()
    assert share[best[0]] < 0.9  # there is something to draw
    assert share[best[0]] > 3 * logits.softmax(-1)[best[0]]  # and the temperature matters
    said = loaded.tokenizer.batch_decode([[token] for token in best], skip_special_tokens=True)
    for token, text in zip(best, said, strict=True):
        if text.strip() and "\ufffd" not in text:
            seen = sum(answer.text == text.strip() for answer in drawn) / len(drawn)
            spread = (share[token] * (1 - share[token]) / len(drawn)).sqrt()
            assert abs(seen - share[token]) < 4.5 * spread


NO_ROOM = [
    torch.OutOfMemoryError("no room"),
    RuntimeError("[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", NO_ROOM, ids=["device", "main memory"])
def test_a_batch_that_does_not_fit_is_halved(error, loaded_once, asked, monkeypatch):
    loaded = loaded_once("llama")
    whole = generate(loaded, asked, condition="base", max_new_tokens=4)
    forward, sizes = loaded.model.forward, []

    def tight(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 2:
            raise error
        return forward(*args, **kwargs)

    monkeypatch.setattr(loaded.model, "forward", tight)
    told = []
    halved = generate(loaded, asked, condition="base", max_new_tokens=4, on_batch=told.extend)
    assert halved == whole
    assert max(sizes) == 5  # it was tried
    assert sorted(r.example for r in told) == [one.id for one in asked]  # each told once


def test_one_example_that_does_not_fit_is_a_clear_error(loaded_once, asked, monkeypatch):
    loaded = loaded_once("llama")

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(loaded.model, "forward", full)
    with pytest.raises(UserError, match="one example alone does not fit"):
        generate(loaded, asked, condition="base", max_new_tokens=4)


def test_another_failure_of_a_batch_is_not_taken_for_want_of_memory(
    loaded_once, asked, monkeypatch
):
    loaded, calls = loaded_once("llama"), []

    def broken(*args, **kwargs):
        calls.append(1)
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(loaded.model, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        generate(loaded, asked, condition="base", max_new_tokens=4)
    assert len(calls) == 1


def test_an_answer_that_would_leave_the_context_is_refused(loaded_once, asked):
    loaded = loaded_once("llama")
    room = loaded.model.config.max_position_embeddings
    with pytest.raises(DataError, match=f"answer up to {room}, more than the {room}"):
        generate(loaded, asked, condition="base", max_new_tokens=room)


def test_no_examples_give_no_answers(loaded_once):
    assert generate(loaded_once("llama"), [], condition="base", max_new_tokens=4) == []


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"batch_size": 0}, {"temperature": -1.0}])
def test_numbers_out_of_range_are_refused(wrong, loaded_once, asked):
    with pytest.raises(ConfigError, match="must be at least"):
        generate(loaded_once("llama"), asked, **{"condition": "b", "max_new_tokens": 4, **wrong})


def test_a_prefill_is_part_of_the_prompt_and_of_what_was_said(loaded_once):
    loaded = loaded_once("llama")
    plain = Example(
        id="p", language="en", modality="text", harm="benign", prompt="name a colour",
        split="test", group="g",
    )  # fmt: skip
    opened = dataclasses.replace(plain, prefill="Sure, here is")
    bare, more = encode(loaded, [plain]), encode(loaded, [opened])
    opening = loaded.tokenizer("Sure, here is", add_special_tokens=False)["input_ids"]
    tokens = more.inputs["input_ids"][0].tolist()
    assert tokens[-len(opening) :] == opening
    assert tokens[: len(bare.inputs["input_ids"][0])] == bare.inputs["input_ids"][0].tolist()
    assert int(more.first_decision[0]) == len(tokens) - 1
    said = generate(loaded, [opened], condition="base", max_new_tokens=3)[0]
    shown = loaded.tokenizer.decode(opening, skip_special_tokens=True).strip()
    assert said.text.startswith(shown)
    assert said.tokens <= 3

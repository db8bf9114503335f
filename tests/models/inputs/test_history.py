"""Earlier turns reach the model as the library writes them, pictures included, while they fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from precise_shield.core.errors import DataError, LoadingError
from precise_shield.models.answers.generation import generate
from precise_shield.models.inputs.encoding import Turn, encode
from precise_shield.models.inputs.history import context, too_many
from tiny_folders import EYES, example

SAID = "  Dabei kann ich nicht helfen.\n<b>No</b>"
SYSTEM = "Be kind."


def whole(history, one, system=None):
    """The conversation as a user of the library writes it, pictures in place."""
    turns = [] if system is None else [{"role": "system", "content": [_words(system)]}]
    for turn in (*history, one):
        picture = [] if turn.image is None else [{"type": "image", "image": Image.open(turn.image)}]
        turns.append({"role": "user", "content": [*picture, _words(turn.prompt)]})
        if isinstance(turn, Turn):
            turns.append({"role": "assistant", "content": [_words(turn.answer)]})
    return turns


def _words(text):
    return {"type": "text", "text": text}


def by_the_library(loaded, turns):
    if loaded.processor is None:
        plain = [{**turn, "content": turn["content"][-1]["text"]} for turn in turns]
        return loaded.tokenizer.apply_chat_template(
            plain, add_generation_prompt=True, tokenize=True
        )["input_ids"]
    return loaded.processor.apply_chat_template(
        [turns], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )["input_ids"][0].tolist()


def next_logits(loaded, one, history=()):
    with torch.no_grad():
        batch = encode(loaded, [one], side="left", history=history)
        return loaded.model(**batch.inputs).logits[0, -1]


@pytest.mark.parametrize("model_type", ["llama", *EYES])
def test_a_later_turn_is_the_librarys_template_of_the_whole_conversation(
    model_type, loaded_once, pictures
):
    """Two turns of different pictures and one of words, in every family that sees."""
    loaded = loaded_once(model_type)
    first, second = pictures if loaded.has_images else (None, None)
    history = [Turn("Where is the cat?", SAID, first), Turn("Und die Stadt?", "猫")]
    ends = [example(1, "two words", second), example(2, "two words")]
    for one in ends:
        for system in (None, SYSTEM):
            ours = encode(loaded, [one], history=history, system=system)
            ids = ours.inputs["input_ids"][0].tolist()
            assert ids == by_the_library(loaded, whole(history, one, system))
        assert ours.image_mask.any() == loaded.has_images  # of an earlier turn, if not of this one
        generate(loaded, [one], condition="base", max_new_tokens=2, history=history)
        assert not torch.allclose(next_logits(loaded, one, history), next_logits(loaded, one))


def test_earlier_pictures_are_read_in_their_order(loaded_once, pictures):
    loaded = loaded_once("llava")
    red, green = pictures
    one = example(1, "see", green)
    batch = encode(loaded, [one], history=[Turn("see", "x", red)])
    apart = [encode(loaded, [example(2, "see", path)]).inputs["pixel_values"] for path in pictures]
    assert torch.equal(batch.inputs["pixel_values"], torch.cat(apart))
    with pytest.raises(DataError, match="text-only model"):
        encode(loaded_once("llama"), [example(1, "see")], history=[Turn("see", "x", red)])


def with_template(loaded, template):
    return dataclasses.replace(loaded, template=template)


ONE_TURN = "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}x"
LAST_ONLY = "<|user|>{{ messages[-1].content }}<|end|><|assistant|>"
NO_ANSWERS = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}"
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (ONE_TURN, "refuses them: one turn"),
        (LAST_ONLY, "leaves some of them out"),
        (NO_ANSWERS, "leaves some of them out"),
    ],
)
def test_a_template_that_knows_one_turn_is_a_sentence(template, why, loaded_once):
    loaded = with_template(loaded_once("llama"), template)
    history = [Turn("Where is the cat?", "On the mat.")]
    with pytest.raises(LoadingError, match=f"takes no earlier turns; it {why}"):
        encode(loaded, [example(1, "x")], history=history)
    assert len(encode(loaded, [example(1, "x")])) == 1  # without history nothing is missing


def test_where_a_template_has_no_system_turn_its_words_come_first_of_all(loaded_once):
    loaded = with_template(loaded_once("llama"), NO_SYSTEM)
    history = [Turn("Where is the cat?", "On the mat.")]
    batch = encode(loaded, [example(1, "x")], history=history, system=SYSTEM, prefix="Think.")
    text = loaded.tokenizer.decode(batch.inputs["input_ids"][0])
    assert text.startswith(f"<|user|>{SYSTEM}\nWhere is the cat?<|end|>\n<|assistant|>On the mat.")
    assert text.endswith("<|user|>Think.\nx<|end|>\n")


def test_the_oldest_turns_go_until_the_answer_fits(loaded_once):
    """The context is set to exactly what so many turns take, and to one token less."""
    loaded = loaded_once("llama")
    assert context(loaded) == loaded.model.config.max_position_embeddings
    one, room = example(1, "two words"), 7
    history = [Turn("Where is the cat?", "On the mat."), Turn("x", "y"), Turn("猫", "Nein")]
    whole_length = loaded.model.config.max_position_embeddings
    try:
        for gone in range(4):
            rest = encode(loaded, [one], history=history[gone:])
            needed = int(rest.prompt_mask.sum()) + room
            loaded.model.config.max_position_embeddings = needed
            assert too_many(loaded, one, history, room) == gone
            loaded.model.config.max_position_embeddings = needed - 1
            if gone < 3:
                assert too_many(loaded, one, history, room) == gone + 1
        with pytest.raises(DataError, match=r"takes \d+ tokens and its answer up to 7"):
            too_many(loaded, one, history, room)
    finally:
        loaded.model.config.max_position_embeddings = whole_length

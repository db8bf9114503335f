"""Where the user's own words end, whatever the template writes after them."""

import pytest
import torch

import tiny_folders
from precise_shield.core.errors import DataError
from precise_shield.models.inputs.encoding import encode
from precise_shield.models.inputs.words import last_own_token
from tiny_folders import TEMPLATE, draw, example

PROMPTS = ["Where is the cat?", "a", "end", "猫はどこ", "two lines\nof words", "assistant"]


def templated(tmp_path, template):
    path = tmp_path / "template.jinja"
    path.write_text(template)
    return tiny_folders.tiny_loaded("llama", tmp_path / "m", chat_template=path)


def read_back(loaded, examples, **more):
    """The text that stands up to the position found, and after it up to the answer."""
    batch = encode(loaded, examples, ["Yes."] * len(examples), **more)
    last = last_own_token(loaded, examples, batch)
    texts = []
    for row, (own, decides) in enumerate(zip(last, batch.first_decision, strict=True)):
        ids = batch.inputs["input_ids"][row]
        real = ids[batch.prompt_mask[row]]
        offset = int(batch.prompt_mask[row].long().argmax())
        cut = int(own) - offset + 1
        texts.append((loaded.tokenizer.decode(real[:cut]), loaded.tokenizer.decode(real[cut:])))
        assert own < decides
    return texts


@pytest.mark.parametrize("side", ["left", "right"])
def test_words_end_where_the_template_goes_on(tmp_path, side):
    loaded = tiny_folders.tiny_loaded("llama", tmp_path / "m")
    examples = [example(i, prompt) for i, prompt in enumerate(PROMPTS)]
    for prompt, (before, after) in zip(
        PROMPTS, read_back(loaded, examples, side=side), strict=True
    ):
        assert before.endswith(prompt)
        assert after.replace(" ", "") == "<|end|>\n<|assistant|>"


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_a_picture_before_the_words_does_not_shift_them(tmp_path, family):
    loaded = tiny_folders.tiny_loaded(family, tmp_path / "m")
    image = draw(tmp_path / "p.png")
    examples = [
        example(0, "Where is it?", image),
        example(1, "a", image),
        example(2, "none at all"),
    ]
    for one, (before, after) in zip(examples, read_back(loaded, examples), strict=True):
        assert before.endswith(one.prompt)
        assert after.replace(" ", "") == "<|end|>\n<|assistant|>"


def test_a_template_that_trims_and_one_that_closes_with_words(tmp_path):
    trims = TEMPLATE.replace("{{ m.content }}", "{{ m.content | trim }}")
    loaded = templated(tmp_path, trims)
    ((before, _),) = read_back(loaded, [example(0, "  spaced out \n")])
    assert before.endswith("spaced out")
    bare = "{% for m in messages %}{{ m.content }} [/INST]{% endfor %}"
    loaded = templated(tmp_path, bare)
    ((before, after),) = read_back(loaded, [example(0, "the cat")])
    assert (before, after) == ("the cat", " [/INST]")


def test_a_template_that_rewrites_the_words_is_refused(tmp_path):
    shouts = TEMPLATE.replace("{{ m.content }}", "{{ m.content | upper }}")
    loaded = templated(tmp_path, shouts)
    batch = encode(loaded, [example(0, "the cat")])
    with pytest.raises(DataError, match="does not write the user's words as they are"):
        last_own_token(loaded, [example(0, "the cat")], batch)
    assert torch.is_tensor(batch.first_decision)

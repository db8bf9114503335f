"""Where the prompt ends, where the answer starts, and that padding does not matter."""

import copy
import dataclasses

import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing

from precise_shield.core.errors import DataError, LoadingError
from precise_shield.models.inputs.encoding import IGNORED, batches, encode, lengths, plan
from tiny import TEXT_CONFIGS
from tiny_folders import EYES, example

FAMILIES = (*TEXT_CONFIGS, *EYES)
SAID = ["I cannot help with that.", "  Nein,\n das nicht. ", "それはできません。", "", "ok"]


def requests(loaded, asked, shown):
    """As mixed a batch as the family takes."""
    if not loaded.has_images:
        return asked
    return shown if loaded.model_type == "mllama" else [*shown, *asked[:2]]


@pytest.fixture(params=FAMILIES)
def loaded(request, loaded_once):
    return loaded_once(request.param)


def text(loaded, ids):
    return loaded.tokenizer.decode(ids, skip_special_tokens=False)


def by_the_library(loaded, one):
    if loaded.processor is None:
        turns = [{"role": "user", "content": one.prompt}]
        return loaded.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True
        )["input_ids"]
    content = [{"type": "text", "text": one.prompt}]
    if one.image is not None:
        content.insert(0, {"type": "image", "image": Image.open(one.image)})
    return loaded.processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )["input_ids"][0].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_response_mask_decodes_back_to_the_response(loaded, asked, shown, side):
    examples = requests(loaded, asked, shown)
    batch = encode(loaded, examples, SAID[: len(examples)], side=side)
    for ids, mask, said in zip(batch.inputs["input_ids"], batch.response_mask, SAID, strict=False):
        assert text(loaded, ids[mask][:-1]) == said
        assert ids[mask][-1] == loaded.end_id


def test_the_prompt_is_the_same_with_and_without_a_response(loaded, asked, shown):
    examples = requests(loaded, asked, shown)
    alone = encode(loaded, examples)
    answered = encode(loaded, examples, SAID[: len(examples)], side="left")
    for one, other, a, b in zip(
        alone.inputs["input_ids"],
        answered.inputs["input_ids"],
        alone.prompt_mask,
        answered.prompt_mask,
        strict=True,
    ):
        assert torch.equal(one[a], other[b])
    assert not alone.response_mask.any()
    assert answered.response_mask.any(1).all()


def test_prompts_are_those_of_the_library_itself(loaded, asked, shown):
    """The library's own one-call path, from conversation to tokens, is the other route."""
    for one in requests(loaded, asked, shown):
        ours = encode(loaded, [one]).inputs["input_ids"][0].tolist()
        assert ours == by_the_library(loaded, one)
        assert loaded.tokenizer.convert_tokens_to_ids("<|assistant|>") == ours[-1]


def test_left_and_right_padding_give_equal_logits_at_the_response(loaded, asked, shown):
    examples = requests(loaded, asked, shown)
    said = SAID[: len(examples)]
    rows = []
    for side in ("left", "right"):
        batch = encode(loaded, examples, said, side=side)
        with torch.no_grad():
            logits = loaded.model(**batch.inputs).logits
        rows.append(logits[batch.predict_mask])
        assert (batch.inputs["attention_mask"] == 0).any()  # there is padding to get wrong
    torch.testing.assert_close(rows[0], rows[1], atol=2e-5, rtol=1e-4)


def test_a_row_does_not_depend_on_its_batch(loaded, asked, shown):
    examples = requests(loaded, asked, shown)
    together = encode(loaded, examples, SAID[: len(examples)], side="left")
    with torch.no_grad():
        logits = loaded.model(**together.inputs).logits
        for row, (one, said) in enumerate(zip(examples, SAID, strict=False)):
            alone = encode(loaded, [one], [said])
            torch.testing.assert_close(
                logits[row][together.predict_mask[row]],
                loaded.model(**alone.inputs).logits[alone.predict_mask],
                atol=2e-5,
                rtol=1e-4,
            )


@pytest.mark.parametrize("side", ["left", "right"])
def test_predicting_positions_are_one_to_the_left_of_labels(loaded, asked, shown, side):
    examples = requests(loaded, asked, shown)
    batch = encode(loaded, examples, SAID[: len(examples)], side=side)
    ids, rows = batch.inputs["input_ids"], torch.arange(len(batch))
    assert torch.equal(batch.labels != IGNORED, batch.response_mask)
    assert torch.equal(batch.labels[batch.response_mask], ids[batch.response_mask])
    assert batch.prompt_mask[rows, batch.first_decision].all()
    assert not batch.prompt_mask[rows, batch.first_decision + 1].any()
    assert batch.predict_mask[rows, batch.first_decision].all()
    assert batch.predict_mask.sum() == batch.response_mask.sum()
    assert not (batch.prompt_mask & batch.response_mask).any()
    real = batch.prompt_mask | batch.response_mask
    assert torch.equal(real.long(), batch.inputs["attention_mask"])


@pytest.mark.parametrize("model_type", EYES)
def test_pictures_reach_the_model_and_only_where_there_are_any(
    model_type, loaded_once, asked, shown, pictures
):
    loaded = loaded_once(model_type)
    first, second = shown[0], dataclasses.replace(shown[0], image=pictures[1])
    seen = encode(loaded, [first, second])
    assert seen.image_mask.sum(1).min() >= 1
    assert not (seen.image_mask & ~seen.prompt_mask).any()
    with torch.no_grad():
        logits = loaded.model(**seen.inputs).logits[:, -1]
    assert not torch.allclose(logits[0], logits[1], atol=1e-6)
    blind = encode(loaded, asked)
    assert not blind.image_mask.any()
    assert "pixel_values" not in blind.inputs


def test_an_answer_goes_on_seeing_the_picture(loaded_once, shown):
    """Mllama says for every token which pictures it may look at."""
    batch = encode(loaded_once("mllama"), shown, SAID[: len(shown)], side="left")
    mask = batch.inputs["cross_attention_mask"][..., 0, 0]
    assert (mask[batch.response_mask] == 1).all()
    assert (mask[~(batch.prompt_mask | batch.response_mask)] == 0).all()


@pytest.mark.parametrize("model_type", ["llama", "llava"])
@pytest.mark.parametrize("written", [True, False])
def test_a_start_token_is_written_as_the_library_does(model_type, written, loaded_once, asked):
    """Once where the template writes it; where it does not, only a processor adds one."""
    loaded = copy.copy(loaded_once(model_type))
    words = copy.deepcopy(loaded.tokenizer)
    words.bos_token = "<|system|>"  # any token will do
    words.backend_tokenizer.post_processor = TemplateProcessing(
        "<|system|> $A", special_tokens=[("<|system|>", words.bos_token_id)]
    )
    loaded.tokenizer = words
    if written:
        loaded.template = "<|system|>" + loaded.template
    if loaded.has_images:
        loaded.processor = copy.copy(loaded.processor)
        loaded.processor.tokenizer = words
        loaded.processor.chat_template = loaded.template
    else:
        words.chat_template = loaded.template
    alone, answered = encode(loaded, asked), encode(loaded, asked, SAID)
    expected = 1 if written or loaded.has_images else 0
    for row, said in enumerate(SAID):
        ids = alone.inputs["input_ids"][row][alone.prompt_mask[row]]
        assert (ids == words.bos_token_id).sum() == expected
        assert ids.tolist() == by_the_library(loaded, asked[row])
        kept = answered.inputs["input_ids"][row]
        assert torch.equal(kept[answered.prompt_mask[row]], ids)
        assert text(loaded, kept[answered.response_mask[row]][:-1]) == said


def test_a_text_only_model_refuses_a_picture(loaded_once, shown):
    with pytest.raises(DataError, match=r"'e10' has a picture.*text-only"):
        encode(loaded_once("llama"), shown)


def test_a_missing_picture_is_named(loaded_once, tmp_path):
    lost = str(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"'e7'.*gone\.png is no regular file"):
        encode(loaded_once("llava"), [example(7, "see", lost)])


def test_a_broken_picture_is_named(loaded_once, tmp_path):
    broken = tmp_path / "broken.png"
    Image.new("RGB", (64, 64), (1, 2, 3)).save(broken)
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=r"'e7'.*broken\.png is damaged"):
        encode(loaded_once("llava"), [example(7, "see", str(broken))])
    broken.write_text("<svg/>")
    with pytest.raises(DataError, match="none of PNG"):
        encode(loaded_once("llava"), [example(7, "see", str(broken))])


def test_a_huge_picture_is_refused_before_it_is_decoded(loaded_once, tmp_path, monkeypatch):
    monkeypatch.setattr("precise_shield.core.images.MAX_PIXELS", 100)
    path = tmp_path / "huge.png"
    Image.new("RGB", (11, 10)).save(path)
    with pytest.raises(DataError, match="11 x 10, more than 100 pixels"):
        encode(loaded_once("llava"), [example(7, "see", str(path))])
    Image.new("RGB", (10, 10)).save(tmp_path / "fits.png")
    assert len(encode(loaded_once("llava"), [example(7, "see", str(tmp_path / "fits.png"))])) == 1


def test_a_prompt_that_writes_the_picture_token_is_named(loaded_once, shown, asked):
    bad = dataclasses.replace(shown[1], prompt="what does <image> mean?")
    with pytest.raises(DataError, match=r"'e11': the model's processor rejects it"):
        encode(loaded_once("llava"), [shown[0], bad, shown[2]])
    blind = dataclasses.replace(asked[1], prompt="what does <image> mean?")
    with pytest.raises(DataError, match=r"'e1': the model's processor rejects it"):
        encode(loaded_once("llava"), [asked[0], blind])


def test_a_template_that_takes_no_lists_is_an_error_in_words(loaded_once, asked):
    loaded = with_template(loaded_once("llava"), "{{ 'User: ' + messages[0].content }}")
    with pytest.raises(LoadingError, match="the chat template fails"):
        encode(loaded, asked)


def test_nothing_to_encode_is_an_error(loaded_once):
    with pytest.raises(DataError, match="no examples"):
        encode(loaded_once("llama"), [])


@pytest.mark.parametrize("model_type", ["llama", "llava"])
def test_system_words_and_prefix_reach_the_prompt(model_type, loaded_once, asked):
    loaded = loaded_once(model_type)
    batch = encode(loaded, asked[:1], system="Be kind.", prefix="Think first.")
    whole = text(loaded, batch.inputs["input_ids"][0])
    assert whole.startswith("<|system|>Be kind.<|end|>")
    assert "<|user|>Think first.\nHello there" in whole


def with_template(loaded, template):
    return dataclasses.replace(loaded, template=template)


REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role | upper }}: {{ m.content }} "
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
THINKS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}(thought){% endif %}"
    "{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}()\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_where_a_template_has_no_system_turn_its_words_go_to_the_user(template, loaded_once, asked):
    loaded = with_template(loaded_once("llama"), template)
    batch = encode(loaded, asked[:1], system="Be kind.", prefix="Think first.")
    whole = text(loaded, batch.inputs["input_ids"][0])
    assert "Be kind.\n\nThink first.\nHello there" in whole
    assert "system" not in whole


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM, THINKS])
def test_odd_templates_leave_prompt_and_response_whole(template, loaded_once, asked):
    """One trims answers, one puts a space before them and no end, one rewrites the prompt."""
    loaded = with_template(loaded_once("llama"), template)
    prompts, batch = encode(loaded, asked), encode(loaded, asked, SAID)
    for row, said in enumerate(SAID):
        mask = batch.prompt_mask[row]
        ids = batch.inputs["input_ids"][row]
        assert torch.equal(ids[mask], prompts.inputs["input_ids"][row][prompts.prompt_mask[row]])
        answer = text(loaded, ids[batch.response_mask[row]][:-1])
        space = " " if template == DROPS_SYSTEM and said else ""
        assert answer == space + said
    if template == THINKS:
        assert text(loaded, ids[mask]).endswith("()\n")


def test_batches_cover_every_item_once_longest_first():
    items, sizes = list("abcdefg"), [3, 9, 1, 9, 5, 2, 7]
    parts = list(batches(items, sizes, 3))
    assert [index for part, _ in parts for index in part] == [1, 3, 6, 4, 0, 5, 2]
    assert all([items[i] for i in part] == got for part, got in parts)
    assert [len(part) for part, _ in parts] == [3, 3, 1]


def test_plans_keep_pictures_apart(loaded_once, asked, shown):
    loaded = loaded_once("llava")
    mixed = [asked[0], shown[0], asked[1], shown[1], shown[2], asked[2]]
    parts = list(plan(loaded, mixed, None, 2))
    assert sorted(index for part in parts for index in part) == list(range(6))
    for part in parts:
        assert len({mixed[i].image is None for i in part}) == 1
    assert list(plan(loaded, [], None, 2)) == []


def test_lengths_grow_with_words_and_responses(loaded_once, asked):
    loaded = loaded_once("llama")
    bare, answered = lengths(loaded, asked), lengths(loaded, asked, SAID)
    assert bare[0] > bare[3] == 1
    assert [b - a for a, b in zip(bare, answered, strict=True)][3:] == [
        0,
        len(loaded.tokenizer("ok")["input_ids"]),
    ]

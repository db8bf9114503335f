"""An edit acts at the prompt, at the answer or everywhere, in any pass, and nowhere else."""

from pathlib import Path

import pytest
import torch

from precise_shield.core.errors import DeadTapError, LayoutMismatchError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.intervene.edits import intervening, replace, scale, suppress
from precise_shield.models.answers.generation import generate
from precise_shield.models.architecture.bind import bind
from precise_shield.models.inputs.encoding import encode
from precise_shield.models.inputs.positions import running
from precise_shield.models.passes.taps import tapped
from precise_shield.models.readings.likelihood import answer_logprobs
from precise_shield.models.readings.readout import FirstTokenReadout
from tiny_folders import draw, example, tiny_loaded

LAST = NeuronSet.of({Site("text", 2): [1, 4, 9]})
ALL = NeuronSet.of({Site("text", layer): range(12) for layer in range(3)})
ROWS = [example(1, "Wie heißt die Stadt?"), example(2, "The cat")]
SAID = ["I cannot help.", "猫"]
FOLDERS: dict[str, Path] = {}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return tiny_loaded("llama", tmp_path_factory.mktemp("models") / "llama")


def logits(loaded, batch):
    with torch.no_grad(), running(batch):
        return loaded.model(**batch.inputs).logits


@pytest.mark.parametrize("side", ["left", "right"])
def test_in_the_last_layer_each_scope_moves_its_own_positions_and_they_add_up(loaded, side):
    """The last layer's neurons reach no other position, so there a scope is linear."""
    bound, batch = bind(loaded.model), encode(loaded, ROWS, SAID, side=side)
    plain, states = logits(loaded, batch), {}
    for scope in ("all", "prompt", "context", "first_decision", "response"):
        with intervening(bound, LAST, suppress, scope):
            states[scope] = logits(loaded, batch)
    first = torch.zeros_like(batch.prompt_mask)
    first[torch.arange(len(batch)), batch.first_decision] = True
    masks = {
        "prompt": batch.prompt_mask,
        "context": batch.prompt_mask & ~first,
        "first_decision": first,
        "response": batch.response_mask,
    }
    moved = (states["all"] - plain).abs().amax(-1) > 1e-6
    assert moved[batch.prompt_mask | batch.response_mask].all()  # there is something to move
    for scope, mask in masks.items():
        assert torch.equal(states[scope][mask], states["all"][mask])
        assert torch.equal(states[scope][~mask], plain[~mask])
        assert mask.any(1).all()
    parts = sum(states[scope] - plain for scope in ("context", "first_decision", "response"))
    real = batch.prompt_mask | batch.response_mask
    torch.testing.assert_close((plain + parts)[real], states["all"][real])


@pytest.mark.parametrize("edit", [suppress, scale(3.0)])
def test_prompt_and_response_nested_are_all(loaded, edit):
    """In every layer: the second route to the same sum, with no linearity needed."""
    bound, batch = bind(loaded.model), encode(loaded, ROWS, SAID, side="left")
    real = batch.prompt_mask | batch.response_mask
    with intervening(bound, ALL, edit):
        everywhere = logits(loaded, batch)
    with intervening(bound, ALL, edit, "prompt"):
        prompt = logits(loaded, batch)
        with intervening(bound, ALL, edit, "response"):
            both = logits(loaded, batch)
        assert torch.equal(logits(loaded, batch), prompt)  # the inner block left no trace
    with intervening(bound, ALL, edit, "context"), intervening(bound, ALL, edit, "first_decision"):
        assert torch.equal(logits(loaded, batch)[real], prompt[real])
    assert torch.equal(both[real], everywhere[real])
    assert not torch.allclose(prompt[real], everywhere[real])


def test_suppressing_everywhere_is_zeroing_the_columns(loaded):
    bound, batch = bind(loaded.model), encode(loaded, ROWS, SAID)
    with intervening(bound, ALL, suppress):
        hooked = logits(loaded, batch)
    kept = {}
    for site, units in ALL.units.items():
        weight = next(o for o in bound.sites[site].owned if o.role == "down").weight
        kept[site] = weight.detach().clone()
        weight.data[:, list(units)] = 0
    zeroed = logits(loaded, batch)
    for site, weight in kept.items():
        next(o for o in bound.sites[site].owned if o.role == "down").weight.data.copy_(weight)
    torch.testing.assert_close(hooked, zeroed)
    assert not torch.allclose(zeroed, logits(loaded, batch))


@pytest.mark.parametrize("scope", ["all", "prompt", "context", "first_decision", "response"])
@pytest.mark.parametrize("family", ["llama", "llava", "qwen2_vl", "gemma3"])
def test_generation_is_edited_at_the_prompt_in_its_first_pass_and_at_the_answer_in_later_ones(
    family, scope, tmp_path_factory, tmp_path
):
    """With a picture and padding where the model sees, through each way of decoding."""
    loaded = tiny_loaded(family, FOLDERS.setdefault(family, tmp_path_factory.mktemp(family)))
    picture = None if family == "llama" else draw(tmp_path / "a.png")
    rows = [example(1, "Wie heißt die Stadt, die am Fluss?", picture), example(2, "Cat", picture)]
    values = {site: torch.full((len(ids),), 7.0) for site, ids in LAST.units.items()}
    bound, passes = bind(loaded.model), []
    with intervening(bound, LAST, replace(values), scope):
        with tapped(bound.only(LAST.units), lambda _, acts: passes.append(acts[..., 4] == 7)):
            generate(loaded, rows, condition="x", max_new_tokens=3)
    first, later = passes[0], passes[1:]
    batch = encode(loaded, rows, side="left")
    last = torch.zeros_like(batch.prompt_mask)
    last[:, -1] = True
    covered = {
        "all": torch.ones_like(last),
        "prompt": batch.prompt_mask,
        "context": batch.prompt_mask & ~last,
        "first_decision": last,
        "response": last & False,
    }[scope]
    assert torch.equal(first, covered)
    assert len(later) == 2
    for step in later:
        assert step.shape[1] == 1  # cached: one new token a pass
        assert (step == (scope in {"all", "response"})).all()


@pytest.mark.parametrize("scope", ["all", "prompt", "first_decision", "response"])
def test_generated_tokens_are_those_of_whole_passes_under_the_same_edit(loaded, scope):
    bound, row = bind(loaded.model), ROWS[0]
    with intervening(bound, ALL, scale(-30.0), scope):
        (said,) = generate(loaded, [row], condition="x", max_new_tokens=6)
    prompt = encode(loaded, [row])
    tokens, width = [], prompt.labels.shape[1]
    for step in range(said.tokens):
        ids = torch.cat([prompt.inputs["input_ids"], torch.tensor([tokens], dtype=torch.long)], 1)
        whole = type(prompt)(
            inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            prompt_mask=torch.arange(ids.shape[1])[None] < width,
            response_mask=torch.arange(ids.shape[1])[None] >= width,
            image_mask=torch.zeros_like(ids, dtype=torch.bool),
            first_decision=prompt.first_decision,
            labels=ids,
        )
        if scope == "response" and step == 0:
            tokens.append(int(logits(loaded, whole)[0, -1].argmax()))
            continue
        with intervening(bound, ALL, scale(-30.0), scope):
            tokens.append(int(logits(loaded, whole)[0, -1].argmax()))
    decoded = loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert decoded == said.text


def test_a_readout_that_never_says_an_answer_cannot_be_edited_there(loaded):
    bound, readout = bind(loaded.model), FirstTokenReadout(loaded, ROWS, {"en": [5, 6]})
    base = readout()
    with pytest.raises(DeadTapError, match="no response position came by"):
        with intervening(bound, ALL, suppress, "response"):
            readout()
    with intervening(bound, ALL, suppress, "prompt"):
        edited = readout()
    with intervening(bound, ALL, suppress):
        assert torch.equal(readout(), edited)
    assert not torch.equal(edited, base)
    assert torch.equal(readout(), base)


def test_a_pass_that_nobody_announced_is_refused_and_nothing_stays_behind(loaded):
    bound, batch = bind(loaded.model), encode(loaded, ROWS, SAID)
    with pytest.raises(LayoutMismatchError, match="cannot tell prompt from answer"):
        with intervening(bound, ALL, suppress, "prompt"), torch.no_grad():
            loaded.model(**batch.inputs)
    other = encode(loaded, ROWS[:1], SAID[:1])
    with pytest.raises(LayoutMismatchError, match="cannot be told apart"):
        with intervening(bound, ALL, suppress, "prompt"), running(other), torch.no_grad():
            loaded.model(**batch.inputs)
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_the_prompt_alone_changes_what_is_thought_of_an_answer_through_attention(loaded):
    """Cross-check that `prompt` is no no-op in a teacher-forced likelihood, nor `response`."""
    bound = bind(loaded.model)
    scores = {"none": [s.logprob for s in answer_logprobs(loaded, ROWS, SAID)]}
    for scope in ("prompt", "response", "all"):
        with intervening(bound, ALL, suppress, scope):
            scores[scope] = [s.logprob for s in answer_logprobs(loaded, ROWS, SAID)]
    assert len({round(values[0], 9) for values in scores.values()}) == 4


def test_means_stand_in_at_the_scope_alone(loaded):
    bound, batch = bind(loaded.model), encode(loaded, ROWS, SAID)
    values = {site: torch.full((len(ids),), 7.0) for site, ids in LAST.units.items()}
    seen = {}
    with intervening(bound, LAST, replace(values), "response"):
        with tapped(bound.only(LAST.units), lambda s, a: seen.update({s: a.clone()})):
            logits(loaded, batch)
    acts = seen[Site("text", 2)][..., [1, 4, 9]]
    assert (acts[batch.response_mask] == 7).all()
    assert not (acts[batch.prompt_mask] == 7).any()

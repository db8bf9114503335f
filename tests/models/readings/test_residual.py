"""The residual stream is the model's own, at the right positions, in every family."""

import pytest
import torch

import tiny
from precise_shield.core.records import Example
from precise_shield.models.architecture.bind import bind, kinds_of
from precise_shield.models.inputs.encoding import encode
from precise_shield.models.readings.residual import hidden_states, residual_stream, stream_bytes


def asked(*prompts):
    return [
        Example(f"e{i}", "en", "text", "benign", p, "probe", f"g{i}") for i, p in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return tiny.tiny_loaded("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("model_type", sorted(tiny.BUILDERS))
def test_every_family_hands_out_what_each_block_reads(model_type):
    model = tiny.tiny(model_type)
    bound, given = bind(model, units=kinds_of(model)), tiny.inputs(model)
    with torch.no_grad():
        states = hidden_states(bound, given)
        last = bound.backbone(**given, use_cache=False).last_hidden_state
    blocks = model.config.get_text_config().num_hidden_layers
    assert len(states) == blocks + 1
    assert {tuple(state.shape) for state in states} == {tuple(last.shape)}
    torch.testing.assert_close(states[-1], last)
    assert not torch.allclose(states[0], states[1])


def test_rows_are_those_of_a_pass_of_their_own(loaded):
    bound = bind(loaded.model)
    examples = asked("One two", "A much longer question than the first", "Three")
    found = residual_stream(loaded, bound, examples, ("first_decision", "last_prompt"), 2)
    states = found["first_decision"]
    assert states.shape == (3, 4, 16)
    for i, example in enumerate(examples):
        batch = encode(loaded, [example])
        alone = torch.stack([s[0, -1] for s in hidden_states(bound, batch.inputs)])
        torch.testing.assert_close(states[i], alone, rtol=1e-4, atol=1e-4)
        assert int(batch.first_decision[0]) == batch.inputs["input_ids"].shape[1] - 1
    assert not torch.allclose(found["last_prompt"], states)  # the template writes after the words
    assert stream_bytes(bound, 3, 2) == sum(s.numel() * 4 for s in found.values())

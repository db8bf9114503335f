"""Log-probabilities by a second route: the full logits, or the model's own loss."""

import contextlib

import pytest
import torch

from precise_shield.core.errors import ConfigError
from precise_shield.core.sites import NeuronSet
from precise_shield.intervene.edits import intervening, scale, suppress
from precise_shield.models.architecture.bind import bind
from precise_shield.models.inputs.encoding import encode
from precise_shield.models.readings.likelihood import (
    answer_logprobs,
    benign_kl,
    first_token_ids,
    first_token_log_odds,
)
from tiny import TEXT_CONFIGS
from tiny_folders import EYES

FAMILIES = (*TEXT_CONFIGS, *EYES)
SAID = [
    "I cannot help with that.",
    " Nein, das nicht. ",
    "それはできません。",
    "",
    "ok",
    "a",
    "b c",
    "d",
]
TOKENS = {"en": [40, 77, 300], "de": [9]}


@pytest.fixture(params=FAMILIES)
def loaded(request, loaded_once):
    return loaded_once(request.param)


def requests(loaded, asked, shown):
    return [asked[0], *shown, *asked[1:]] if loaded.has_images else asked


def whole(loaded, one, said=None):
    """One unpadded example and the logits at all its positions."""
    batch = encode(loaded, [one], None if said is None else [said])
    with torch.no_grad():
        return batch, loaded.model(**batch.inputs).logits[0].double()


def test_log_odds_equal_those_of_the_full_logits(loaded, asked, shown):
    examples = requests(loaded, asked, shown)
    odds = first_token_log_odds(loaded, examples, TOKENS, batch_size=3)
    for one, got in zip(examples, odds, strict=True):
        p = whole(loaded, one)[1][-1].softmax(-1)[TOKENS["en"]].sum()
        torch.testing.assert_close(got, p.log() - (1 - p).log(), atol=1e-4, rtol=1e-4)
    assert odds.std() > 1e-3


def test_the_head_runs_at_one_position_only(loaded_once, asked):
    loaded = loaded_once("gemma2")
    widths = []
    head = loaded.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, args, out: widths.append(out.shape[1]))
    first_token_log_odds(loaded, asked, TOKENS)
    handle.remove()
    assert widths == [1]
    assert loaded.model.config.final_logit_softcapping == 30.0  # and what the head does is kept


def test_each_language_has_its_own_refusal_tokens(loaded_once, asked):
    import dataclasses

    loaded = loaded_once("llama")
    german = dataclasses.replace(asked[0], language="de")
    both = first_token_log_odds(loaded, [asked[0], german], TOKENS)
    assert both[0] != both[1]
    swapped = first_token_log_odds(loaded, [german], {"de": TOKENS["en"]})
    torch.testing.assert_close(both[:1], swapped)
    with pytest.raises(ConfigError, match="no refusal tokens for language 'de'"):
        first_token_log_odds(loaded, [german], {"en": [1]})


def test_suppression_shows_in_the_log_odds(loaded_once, asked):
    loaded = loaded_once("llama")
    bound = bind(loaded.model)
    base = first_token_log_odds(loaded, asked, TOKENS)
    with intervening(bound, NeuronSet.of({s: range(24) for s in bound.sites}), suppress):
        assert not torch.allclose(first_token_log_odds(loaded, asked, TOKENS), base)


@pytest.mark.parametrize("model_type", ["llama", "llava", "qwen2_5_vl"])
def test_first_tokens_are_those_the_encoder_puts_first(model_type, loaded_once, asked):
    loaded = loaded_once(model_type)
    texts = ["I cannot", "I will not", "Nein", "それは"]
    ids = first_token_ids(loaded, texts)
    batch = encode(loaded, asked[:1] * 4, texts)
    firsts = batch.labels[torch.arange(4), batch.first_decision + 1].tolist()
    assert ids == sorted(set(firsts))
    assert len(ids) == 3  # two start alike
    assert first_token_ids(loaded, []) == []
    assert first_token_ids(loaded, [""]) == []


def test_answer_logprobs_equal_the_models_own_loss(loaded, asked, shown):
    examples = requests(loaded, asked, shown)
    said = SAID[: len(examples)]
    scores = answer_logprobs(loaded, examples, said, batch_size=3)
    for one, text, score in zip(examples, said, scores, strict=True):
        batch = encode(loaded, [one], [text])
        with torch.no_grad():
            loss = loaded.model(**batch.inputs, labels=batch.labels).loss
        assert score.tokens == int((batch.labels >= 0).sum())
        assert score.mean == pytest.approx(-float(loss), abs=1e-4, rel=1e-4)
        assert score.logprob < 0


def test_kl_equals_that_of_the_full_logits_and_is_zero_for_no_change(loaded, asked, shown):
    examples = requests(loaded, asked, shown)
    said = SAID[: len(examples)]
    bound = bind(loaded.model)
    neurons = NeuronSet.of({site: (0, 3, 5) for site in bound.sites})

    def cut():
        return intervening(bound, neurons, scale(-2.0))

    apart = benign_kl(loaded, examples, said, cut, batch_size=3)
    for one, text, got in zip(examples, said, apart, strict=True):
        batch, base = whole(loaded, one, text)
        with cut():
            _, other = whole(loaded, one, text)
        at = batch.predict_mask[0]
        log_p, log_q = base[at].log_softmax(-1), other[at].log_softmax(-1)
        by_torch = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        assert float(by_torch) > 1e-6
        torch.testing.assert_close(got, by_torch, atol=1e-6, rtol=1e-3)
    assert torch.equal(
        benign_kl(loaded, examples, said, contextlib.nullcontext), torch.zeros(len(said)).double()
    )


def test_nothing_asked_gives_nothing(loaded_once):
    loaded = loaded_once("llama")
    assert first_token_log_odds(loaded, [], TOKENS).shape == (0,)
    assert answer_logprobs(loaded, [], []) == []

"""The answer-only head gives the loss that transformers gives, and says when it cannot."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from align_tiny import FAMILIES, batch, build, chosen
from torch.nn import functional as F

from precise_shield.align.delta import DirectUnits, tuning
from precise_shield.align.losses import (
    IGNORE,
    answers,
    benign_logits,
    kl_to,
)
from precise_shield.core.errors import DataError, UnsupportedModelError
from precise_shield.models.readings.head import check_head, head


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answer_only_loss_is_the_models_own_loss(name):
    bound = build(name)
    rows = batch(bound)
    own = bound.model(**rows.inputs, labels=rows.labels).loss
    said = answers(bound, rows)
    torch.testing.assert_close(said.nll() / rows.tokens(), own, rtol=1e-6, atol=1e-6)
    assert said.logits.shape == (rows.tokens(), 64)
    assert rows.tokens() < rows.labels.numel() / 2  # the head did see few positions
    assert not torch.allclose(own, torch.tensor(64.0).log(), atol=0.05)  # nor is it uniform


def test_padding_does_not_change_the_loss_of_a_row():
    bound = build("llama")
    rows = batch(bound, rows=2)
    alone = answers(bound, rows).nll()
    ids = F.pad(rows.inputs["input_ids"], (0, 3), value=0)
    mask = F.pad(torch.ones_like(rows.labels), (0, 3), value=0)
    padded = dataclasses.replace(
        rows,
        inputs={"input_ids": ids, "attention_mask": mask},
        labels=F.pad(rows.labels, (0, 3), value=IGNORE),
    )
    torch.testing.assert_close(answers(bound, padded).nll(), alone)


def test_kl_to_the_base_is_what_a_second_model_gives():
    bound, other = build("llama"), build("llama")
    rows = batch(bound)
    with tuning(bound, chosen(bound), DirectUnits(), seed=0) as deltas:
        assert float(kl_to(benign_logits(bound, rows), benign_logits(bound, rows))) == 0.0
        for parameter in deltas.parameters():
            parameter.data.normal_(std=0.1)
        with deltas.off():
            base = benign_logits(bound, rows)
        said = answers(bound, rows)
        ours = kl_to(base, said.logits[said.benign]).detach()

    mask = rows.predicting() & rows.benign[:, None]
    with torch.no_grad():
        p = other.model(**rows.inputs).logits[mask].double().softmax(-1)
        q = bound.model(**rows.inputs).logits[mask].double().softmax(-1)  # merged by now
    by_hand = (p * (p / q).log()).sum()
    torch.testing.assert_close(ours.double(), by_hand, rtol=1e-4, atol=1e-5)
    assert by_hand > 0.01


def test_a_row_without_an_answer_is_refused():
    rows = batch(build("llama"))
    rows.labels[2] = IGNORE
    with pytest.raises(DataError, match=r"rows \[2\]"):
        rows.tokens()
    rows.labels[2, 0] = 7  # the first token has no position that predicts it
    with pytest.raises(DataError, match=r"rows \[2\]"):
        rows.tokens()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_is_checked_against_the_model(name):
    check_head(build(name), batch(build(name)).inputs)
    check_head(build(name, torch.bfloat16), batch(build(name, torch.bfloat16)).inputs)


def test_an_unknown_output_head_is_refused():
    bound = build("gemma2")
    check_head(bound, batch(bound).inputs)
    hidden = torch.randn(1, 16)
    assert head(bound, hidden).abs().max() < 2.0  # the cap is on
    forward = type(bound.model).forward

    class Odd(type(bound.model)):  # type: ignore[misc]
        def forward(self, **inputs):
            out = forward(self, **inputs)
            out.logits = out.logits * 1.1
            return out

    bound.model.__class__ = Odd
    with pytest.raises(UnsupportedModelError, match="output head of 'gemma2'"):
        check_head(bound, batch(bound).inputs)

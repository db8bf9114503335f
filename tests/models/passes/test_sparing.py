"""Norms and activation functions that keep only what they are given: the same gradients."""

from __future__ import annotations

import weakref
from contextlib import ExitStack, nullcontext

import pytest
import torch
from torch import nn

from precise_shield.models.architecture.bind import bind
from precise_shield.models.passes.decoder import blocks
from precise_shield.models.passes.rerun import rerun
from precise_shield.models.passes.sparing import is_cheap, sparing
from tiny import MOE_CONFIGS, SEEING_CONFIGS, TEXT_CONFIGS, inputs, tiny

FAMILIES = (*TEXT_CONFIGS, *MOE_CONFIGS, *SEEING_CONFIGS)


def run(kind, dtype, *, spare, again=False):
    """Loss, gradients of the matrices of every block, and the outputs that outlive the forward."""
    model = tiny(kind).to(dtype)
    every = blocks(bind(model, units=("query",)))
    model.requires_grad_(False)
    learning = [p for block in every for p in block.parameters() if p.dim() > 1]
    for parameter in learning:
        parameter.requires_grad_(True)
    made = []

    def note(_, __, output):
        made.append(weakref.ref(output))

    given = {n: v.to(dtype) if v.is_floating_point() else v for n, v in inputs(model).items()}
    with ExitStack() as stack:
        stack.enter_context(rerun(every) if again else nullcontext())
        stack.enter_context(sparing(every) if spare else nullcontext())
        for module in (m for block in every for m in block.modules() if is_cheap(m)):
            stack.callback(module.register_forward_hook(note).remove)
        loss = model(**given, labels=given["input_ids"], use_cache=False).loss
        alive = sum(ref() is not None for ref in made)
        loss.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
    return loss.detach(), gradients, alive, len(made)


@pytest.mark.parametrize("kind", FAMILIES)
def test_gradients_are_those_of_the_model_itself_and_less_outlives_the_forward(kind):
    loss, gradients, alive, made = run(kind, torch.float32, spare=False)
    other, spared, left, _ = run(kind, torch.float32, spare=True)
    assert torch.equal(loss, other)
    assert made >= 2 * 3
    for one, two in zip(gradients, spared, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6 * float(one.abs().max()))
    assert any(bool(one.any()) for one in gradients)
    assert left < alive


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "phi3"])
def test_it_is_exact_in_bfloat16_and_within_blocks_that_run_again(kind):
    loss, gradients, *_ = run(kind, torch.bfloat16, spare=False)
    for again in (False, True):
        other, spared, left, _ = run(kind, torch.bfloat16, spare=True, again=again)
        assert torch.equal(loss, other)
        assert all(torch.equal(one, two) for one, two in zip(gradients, spared, strict=True))
        assert left == 0 or not again


class Odd(nn.Module):
    """Changes what its activation function gave before it is kept, and hands on a part of it."""

    def __init__(self):
        super().__init__()
        self.act = nn.SiLU()
        self.weight = nn.Parameter(torch.tensor([[0.5, -2.0, 3.0]]))

    def forward(self, x):
        doubled = self.act(x).mul_(2.0) * self.weight
        return doubled + self.act(x)[:, :1] * self.weight


def test_what_was_changed_in_place_is_kept_and_a_part_is_taken_from_the_second_run():
    gradients = []
    for spare in (False, True):
        module, x = Odd(), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        x.requires_grad_(True)
        with sparing([module]) if spare else nullcontext():
            module(x).square().sum().backward()
        gradients.append((module.weight.grad, x.grad))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-6)


def test_an_input_that_is_changed_after_it_was_kept_is_an_error():
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.SiLU()

        def forward(self, x):
            h = 2 * x
            said = self.act(h)
            h.add_(1.0)
            return said

    for spare in (False, True):
        module, x = Changing(), torch.ones(2, 3, requires_grad=True)
        with sparing([module]) if spare else nullcontext():
            total = module(x).sum()
            with pytest.raises(RuntimeError, match=r"version 1, expected 0|is at version 1"):
                total.backward()

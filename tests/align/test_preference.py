"""The pair loss is the paper's, whatever way a step is cut, and it moves what it should."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from align_tiny import batch, build, chosen, cut

from precise_shield.align.delta import DirectUnits, LoraRows, tuning
from precise_shield.align.fit import FitSpec, fit
from precise_shield.align.losses import answers
from precise_shield.align.preference import dpo, row_logprobs
from precise_shield.core.errors import ConfigError, DataError

SPEC = FitSpec(
    epochs=4, batch_size=4, micro_batch=4, learning_rate=1e-2, warmup=0.0, schedule="constant",
    objective="dpo", beta=0.5,
)  # fmt: skip


def by_hand(model, rows):
    """Log-probability of each row's answer from the model's own logits, token by token."""
    with torch.no_grad():
        logits = model(**rows.inputs).logits.double().log_softmax(-1)
    out = []
    for row in range(rows.rows):
        total = 0.0
        for place in range(1, rows.labels.shape[1]):
            label = int(rows.labels[row, place])
            if label != -100:
                total += float(logits[row, place - 1, label])
        out.append(total)
    return out


@pytest.mark.parametrize("name", ["llama", "gpt2", "llava"])
def test_row_logprobs_are_the_models_own(name):
    bound = build(name)
    rows = batch(bound)
    with torch.no_grad():
        ours = row_logprobs(answers(bound, rows), rows)
    torch.testing.assert_close(
        ours.double(), torch.tensor(by_hand(bound.model, rows)).double(), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("form", [LoraRows(rank=3, dropout=0.0), DirectUnits()])
def test_the_loss_is_the_papers_against_a_second_copy_of_the_base(form):
    """The base is switched back to, here; there it is a deep copy that never learns."""
    bound = build("llama")
    base, rows = copy.deepcopy(bound.model), batch(bound)
    infos = []
    with tuning(bound, chosen(bound), form, seed=0) as deltas:
        fit(deltas, lambda _: [rows], SPEC, on_step=infos.append)
    assert infos[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert infos[-1].loss < infos[0].loss
    now, before = by_hand(bound.model, rows), by_hand(base, rows)
    loss = 0.0
    for i in (0, 2):
        margin = (now[i] - before[i]) - (now[i + 1] - before[i + 1])
        loss += math.log1p(math.exp(-0.5 * margin)) / 2
        assert margin > 0
    with tuning(bound, chosen(bound), form, seed=0), torch.no_grad():
        ours = dpo(row_logprobs(answers(bound, rows), rows), torch.tensor(before), 0.5) / 2
    assert float(ours) == pytest.approx(loss, abs=1e-4)
    assert loss < infos[-1].loss  # one step further than the last that was reported


def test_a_step_does_not_depend_on_how_pairs_are_cut_into_passes():
    losses = []
    for micro in (4, 2):
        bound = build("llama")
        spec = FitSpec(**{**SPEC.__dict__, "micro_batch": micro})
        with tuning(bound, chosen(bound), DirectUnits(), seed=0) as deltas:
            whole = batch(bound)
            done = fit(deltas, lambda _, rows=whole, m=micro: cut(rows, m), spec)
        losses.append(torch.tensor(done.losses))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


def test_what_is_no_pair_is_refused():
    with pytest.raises(DataError, match="no pairs"):
        dpo(torch.zeros(3), torch.zeros(3), 0.1)
    with pytest.raises(ConfigError, match="even number"):
        FitSpec(batch_size=3, micro_batch=3, objective="dpo")

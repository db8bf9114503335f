"""Streaming statistics do not depend on how the stream was cut."""

import pytest
import torch

from precise_shield.core.errors import NumericError
from precise_shield.core.moments import Moments

ROWS = torch.randn(40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e6
FOLDS = torch.arange(40) % 5


def filled(rows=ROWS, folds=FOLDS, cuts=(40,)):
    seen = Moments(7, folds=5)
    for part, where in zip(rows.split(cuts), folds.split(cuts), strict=True):
        seen.update(part, where)
    return seen


@pytest.mark.parametrize("cuts", [(40,), (1, 39), (13, 13, 14), (20, 0, 20)])
def test_moments_do_not_depend_on_how_the_stream_was_cut(cuts):
    whole = filled(cuts=cuts).pooled()
    assert whole.count.item() == 40
    torch.testing.assert_close(whole.mean, ROWS.mean(0))
    torch.testing.assert_close(
        whole.var, ROWS.var(0), rtol=1e-6, atol=0
    )  # mean 1e6 breaks E[x²]-E[x]²
    torch.testing.assert_close(whole.magnitude, ROWS.abs().mean(0))
    torch.testing.assert_close(whole.positive, (ROWS > 0).double().mean(0))


def test_merged_shards_equal_one_stream():
    left, right = filled(ROWS[:17], FOLDS[:17], (17,)), filled(ROWS[17:], FOLDS[17:], (23,))
    left.merge(right)
    one = filled()
    for name in ("count", "mean", "m2", "magnitude", "positive"):
        torch.testing.assert_close(getattr(left, name), getattr(one, name))
    assert int(left.count.sum()) == 40


def test_a_weighted_draw_equals_the_statistics_of_the_rows_it_names():
    take = torch.tensor([2.0, 0.0, 1.0, 0.0, 3.0])
    rows = torch.cat([ROWS[fold == FOLDS].repeat(int(n), 1) for fold, n in enumerate(take)])
    draw = filled().pooled(take)
    torch.testing.assert_close(draw.mean, rows.mean(0))
    torch.testing.assert_close(draw.var, rows.var(0), rtol=1e-6, atol=0)
    assert not torch.allclose(draw.mean, filled().pooled().mean, rtol=1e-9)


def test_many_draws_at_once_equal_each_alone():
    draws = torch.tensor([[1.0, 0, 1, 0, 1], [0, 2, 0, 1, 0]])
    together = filled().pooled(draws)
    for i in range(2):
        alone = filled().pooled(draws[i])
        torch.testing.assert_close(together.mean[i], alone.mean)
        torch.testing.assert_close(together.var[i], alone.var)


def test_nothing_drawn_is_undefined_and_never_zero():
    assert filled().pooled(torch.zeros(5)).mean.isnan().all()
    assert Moments(3).pooled().var.isnan().all()


def test_nan_activations_are_refused_by_unit():
    bad = torch.ones(2, 7, dtype=torch.float64)
    bad[1, 3] = float("nan")
    with pytest.raises(NumericError, match=r"1 of 7 units, the first \[3\]"):
        Moments(7).update(bad, torch.zeros(2, dtype=torch.int64))

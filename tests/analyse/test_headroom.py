"""Probes find what is there, not what is not, and their numbers are those of other routes."""

import numpy as np
import pytest
import torch
from scipy import stats

from precise_shield.analyse.headroom import Setting, group_keys, mean_row, probed, sentence
from precise_shield.analyse.probes import (
    Arms,
    auc_interval,
    aucs,
    probe_scores,
    resampled,
    shuffled_labels,
    wins,
)

WIDTH = 12
SETTING = Setting("base", "first_decision", 0.1, 39, 0)


def arms(ones, zeros, seed, gap=0.0, copies=1):
    """Two layers of noise; in the second, harmful rows lie `gap` further along one axis."""
    generator = torch.Generator().manual_seed(seed)
    rows = (ones + zeros) * copies
    states = torch.randn(rows, 2, WIDTH, generator=generator)
    groups = [f"h{i}" for i in range(ones)] + [f"b{i}" for i in range(zeros)]
    groups = [f"{seed}/{group}" for group in groups for _ in range(copies)]
    harmful = torch.tensor(["/h" in group for group in groups])
    states[harmful, 1, 3] += gap
    return Arms(states, harmful, groups)


def cell(gap, place=("en", "text"), contrast="matched", ones=12, seed=0):
    fit, test = arms(24, 16, seed, gap), arms(ones, 10, seed + 1, gap)
    keys = group_keys(fit.groups, SETTING.draws, 3)
    return probed(place, contrast, fit, test, "the same kind", keys, SETTING)


def test_a_probe_is_ridge_regression_in_as_many_dimensions_as_there_are():
    """The same scores from the explicit system over features, `[width, width]`."""
    fit, test = arms(9, 6, 1, 1.0), arms(5, 5, 2, 1.0)
    labels = torch.stack([fit.harmful, fit.harmful.flip(0)])
    scores = probe_scores(fit, test.states, labels, 0.3)
    for layer in range(2):
        known = fit.states[:, layer].double()
        mean, spread = known.mean(0), known.std(0, unbiased=False)
        x, z = (known - mean) / spread, (test.states[:, layer].double() - mean) / spread
        ridge = 0.3 * (x @ x.T).diagonal().mean()
        for k, label in enumerate(labels):
            y = torch.where(label, 1 / label.sum(), -1 / (~label).sum()).double()
            w = torch.linalg.solve(x.T @ x + ridge * torch.eye(WIDTH).double(), x.T @ y)
            torch.testing.assert_close(scores[layer, k], z @ w)
    assert not torch.allclose(scores[0, 0], scores[0, 1])


def test_auc_is_mann_whitneys():
    harmful = torch.tensor([True] * 6 + [False] * 9)
    scores = torch.randn(2, 3, 15).round(decimals=0)  # with ties
    found = aucs(scores, harmful)
    for layer in range(2):
        for k in range(3):
            one, two = scores[layer, k, harmful].numpy(), scores[layer, k, ~harmful].numpy()
            known = stats.mannwhitneyu(one, two).statistic / 54
            assert float(found[layer, k]) == pytest.approx(known)


def test_a_feature_that_never_varies_counts_for_nothing():
    fit, test = arms(9, 6, 1, 3.0), arms(5, 5, 2, 3.0)
    labels = fit.harmful[None]
    before = probe_scores(fit, test.states, labels, 0.1)
    still = torch.full((15, 2, 1), 7.0)
    wide = Arms(torch.cat([fit.states, still], 2), fit.harmful, fit.groups)
    moved = torch.cat([test.states, torch.full((10, 2, 1), 900.0)], 2)
    torch.testing.assert_close(probe_scores(wide, moved, labels, 0.1), before)


@pytest.mark.parametrize("auc", [0.6, 0.85])
def test_the_interval_covers_the_true_auc(auc):
    shift = np.sqrt(2) * stats.norm.ppf(auc)
    dice, held = np.random.default_rng(0), []
    for _ in range(400):
        one, two = dice.normal(shift, 1, 14), dice.normal(0, 1, 8)
        low, high = auc_interval(float((one[:, None] > two).mean()), 14, 8)
        held.append(low <= auc <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.035)


def test_the_interval_has_width_where_all_are_told_apart():
    low, high = auc_interval(1.0, 6, 6)
    assert low < 0.8 < high == 1.0
    assert auc_interval(1.0, 60, 60)[0] > low
    assert auc_interval(0.3, 9, 9)[0] == pytest.approx(1 - auc_interval(0.7, 9, 9)[1])
    assert np.isnan(auc_interval(0.5, 0, 4)).all()


def test_labels_are_shuffled_by_group_and_alike_for_translations():
    fit = arms(5, 4, 0, copies=3)
    keys = group_keys(fit.groups, 50, 1)
    labels = shuffled_labels(fit, keys)
    assert labels.shape == (50, 27)
    assert (labels.sum(1) == 15).all()  # five groups of three rows, in every draw
    assert (labels.view(50, 9, 3).float().std(2) == 0).all()
    assert (labels != fit.harmful).any()
    other = Arms(fit.states.flip(0), fit.harmful.flip(0), fit.groups[::-1])
    assert torch.equal(shuffled_labels(other, keys), labels.flip(1))


def test_twins_in_one_group_are_shuffled_too():
    """Every group holds both harms: neither class may be empty in a draw, nor the labels stay."""
    groups = [f"g{i}" for i in range(12) for _ in range(2)]
    harmful = torch.tensor([True, False] * 12)
    generator = torch.Generator().manual_seed(0)
    fit, test = (
        Arms(torch.randn(24, 2, 5, generator=generator), harmful, groups) for _ in range(2)
    )
    keys = group_keys(groups, 50, 1)
    labels = shuffled_labels(fit, keys)
    assert (labels.sum(1) == 12).all()
    assert not (labels == harmful).all(1).any()
    row = probed(("en", "text"), "matched", fit, test, "the same kind", keys, SETTING).row
    assert 0.3 < row.shuffled[0] < 0.7
    assert row.p_value > 0.05


def test_a_difference_is_found_in_its_layer_and_nowhere_else():
    found = cell(3.0)
    assert found.row.best_layer == 1
    assert found.row.auc[1] > 0.9
    assert found.row.low[0] < 0.5 < found.row.high[0]
    assert (found.row.verdict, found.row.p_value) == ("apart", pytest.approx(1 / 40))
    assert (found.row.fitted, found.row.harmful, found.row.benign) == (40, 12, 10)
    assert found.row.shuffled_high[1] < found.row.auc[1]


def test_the_best_of_many_layers_is_no_evidence():
    """Without a difference p is uniform although the best layer was picked."""
    p = [cell(0.0, seed=2 * k).row.p_value for k in range(60)]
    assert np.mean(np.array(p) <= 0.05) <= 0.15
    assert np.mean(p) == pytest.approx(0.5, abs=0.15)


def test_few_groups_are_not_judged_and_none_are_not_probed():
    assert cell(9.0, ones=3).row.verdict == "too few"
    assert cell(9.0, ones=0) is None


def test_the_mean_over_cells_has_the_means_and_draws_of_its_cells():
    cells = [cell(1.0), cell(1.0, ("fr", "text"), seed=10)]
    mean = mean_row(cells, SETTING)
    for layer in range(2):
        assert mean.auc[layer] == pytest.approx(np.mean([c.row.auc[layer] for c in cells]), 1e-5)
        assert mean.low[layer] < mean.auc[layer] < mean.high[layer]
    assert (mean.language, mean.modality) == (None, None)
    assert mean.harmful == 24  # these cells share no group
    assert mean_row([], SETTING) is None


def test_resampling_takes_whole_groups_alike_in_all_cells():
    """A cell twice is as uncertain as once: its translations bring no new requests."""
    one = cell(1.0)
    once = resampled([one.table], [one.groups], 300, 0)
    twice = resampled([one.table, one.table], [one.groups, one.groups], 300, 0)
    torch.testing.assert_close(once, twice)
    low, high = once[:, 1].quantile(0.025), once[:, 1].quantile(0.975)
    ends = auc_interval(one.row.auc[1], 12, 10)
    assert float(low) == pytest.approx(ends[0], abs=0.12)
    assert float(high) == pytest.approx(ends[1], abs=0.12)
    assert once.std(0).min() > 0
    assert wins(torch.tensor([2.0, 1.0, 1.0]), torch.tensor([True, True, False])).tolist() == [
        [1.0],
        [0.5],
    ]


def test_a_cell_that_lacks_some_groups_is_weighted_by_those_it_has():
    """Where every harmful row wins, AUC is 1 in every draw, whatever was drawn."""
    tables = [torch.ones(1, 3, 2), torch.ones(1, 1, 2)]
    groups = [(["a", "b", "c"], ["x", "y"]), (["b"], ["y", "z"])]
    drawn = resampled(tables, groups, 100, 0)
    known = drawn[drawn.isfinite()]
    torch.testing.assert_close(known, torch.ones_like(known))
    assert len(known) > 90


def rows(gap):
    cells = [cell(gap), cell(gap, ("fr", "text"), seed=10)]
    return [mean_row(cells, SETTING), *[c.row for c in cells]]


def test_a_model_that_cannot_tell_is_warned_about():
    words, warns = sentence(rows(0.0))
    assert warns
    assert "only teach it to refuse both" in words
    words, warns = sentence(rows(4.0))
    assert not warns
    assert "in 2 of 2" in words
    assert sentence([]) == (
        "Headroom was not measured: a split lacks harmful or benign requests.",
        False,
    )


def test_too_few_groups_are_said_to_be_too_few():
    few = cell(9.0, ones=3)
    words, warns = sentence([mean_row([few], SETTING), few.row])
    assert not warns
    assert "too few to judge" in words


def test_without_matched_requests_the_sentence_says_that_topic_may_tell():
    ordinary = [row.model_copy(update={"contrast": "ordinary"}) for row in rows(4.0)]
    assert "topic alone may tell" in sentence(ordinary)[0]

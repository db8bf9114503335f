"""Controls have the shape of what they stand against, and nothing of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from precise_shield.core.controls import imbalance, matched_random
from precise_shield.core.errors import ConfigError, LayoutMismatchError, NumericError
from precise_shield.core.sites import NeuronSet, Site

A, B = Site("text", 0), Site("text", 1)
WIDTHS = {A: 40, B: 60, Site("text", 2): 10}
CHOSEN = NeuronSet.of({A: [0, 3, 39], B: range(10, 30)})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_a_control_has_the_counts_of_the_set_and_no_neuron_of_it(seed, matched):
    features = {site: torch.arange(2.0 * w).view(w, 2) for site, w in WIDTHS.items()}
    control = matched_random(CHOSEN, WIDTHS, seed=seed, features=features if matched else None)
    assert control.counts() == CHOSEN.counts()
    assert len(control & CHOSEN) == 0
    assert all(max(ids) < WIDTHS[site] for site, ids in control.units.items())


@pytest.mark.parametrize("matched", [False, True])
def test_a_seed_gives_one_control_and_another_seed_another(matched):
    torch.manual_seed(0)
    features = {s: torch.randn(w, 2) for s, w in WIDTHS.items()} if matched else None
    draws = [matched_random(CHOSEN, WIDTHS, seed=seed, features=features) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_what_a_site_gets_does_not_depend_on_other_sites():
    alone = matched_random(NeuronSet.of({B: CHOSEN.units[B]}), WIDTHS, seed=7)
    assert alone.units[B] == matched_random(CHOSEN, WIDTHS, seed=7).units[B]
    assert len(alone) == 20


def test_uniform_draws_reach_every_other_neuron_about_equally_often():
    chosen, draws = NeuronSet.of({A: [0, 1, 2]}), 4000
    seen = torch.zeros(40)
    for seed in range(draws):
        seen[list(matched_random(chosen, {A: 40}, seed=seed).units[A])] += 1
    expected = draws * 3 / 37
    assert seen[:3].sum() == 0
    chi_square = float(((seen[3:] - expected) ** 2 / expected).sum())
    assert chi_square < 70  # 36 degrees of freedom: 99.9 % point is 68


def test_matched_controls_share_the_features_that_uniform_ones_miss():
    """The best possible matching, by the Hungarian method, bounds what the greedy one may cost."""
    torch.manual_seed(0)
    table = torch.randn(400, 2, dtype=torch.float64)
    chosen = NeuronSet.of({A: table[:, 0].topk(30).indices.tolist()})
    widths, features = {A: 400}, {A: table * torch.tensor([1e3, 1e-3])}  # units do not matter
    near = matched_random(chosen, widths, seed=0, features=features, nearest=1)
    some = matched_random(chosen, widths, seed=0, features=features)
    far = matched_random(chosen, widths, seed=0)

    scaled = (table - table.mean(0)) / table.std(0, unbiased=False)

    def cost(control):
        distances = torch.cdist(scaled[list(chosen.units[A])], scaled[list(control.units[A])])
        rows, columns = linear_sum_assignment(distances.numpy())
        return float(distances[rows, columns].mean())

    pool = NeuronSet.of({A: set(range(400)) - set(chosen.units[A])})
    best = cost(pool)
    assert best <= cost(near) < 1.3 * best
    assert cost(some) < 0.6 * cost(far)


def test_twins_are_found():
    table = torch.randn(20, 3).repeat_interleave(2, 0)  # unit 2i + 1 equals unit 2i
    chosen = NeuronSet.of({A: [0, 8, 30]})
    control = matched_random(chosen, {A: 40}, seed=3, features={A: table}, nearest=1)
    assert control.units[A] == (1, 9, 31)


def test_excluded_neurons_are_never_drawn():
    exclude = NeuronSet.of({A: range(3, 36)})
    control = matched_random(NeuronSet.of({A: [0, 1, 2]}), {A: 40}, seed=0, exclude=exclude)
    assert set(control.units[A]) <= {36, 37, 38, 39}
    assert len(control) == 3


def test_impossible_controls_are_refused():
    with pytest.raises(ConfigError, match="only 10 others"):
        matched_random(NeuronSet.of({A: range(30)}), WIDTHS, seed=0)
    with pytest.raises(LayoutMismatchError, match=r"no site text\.9\.ffn"):
        matched_random(NeuronSet.of({Site("text", 9): [0]}), WIDTHS, seed=0)
    with pytest.raises(LayoutMismatchError, match=r"neuron 40 of text\.0\.ffn"):
        matched_random(NeuronSet.of({A: [40]}), WIDTHS, seed=0)
    with pytest.raises(NumericError, match="1 of 40"):
        table = torch.zeros(40, 1)
        table[5] = float("nan")
        matched_random(NeuronSet.of({A: [0]}), WIDTHS, seed=0, features={A: table})
    with pytest.raises(LayoutMismatchError, match="expected 40 rows"):
        matched_random(NeuronSet.of({A: [0]}), WIDTHS, seed=0, features={A: torch.zeros(39, 1)})


def test_nothing_stands_against_nothing():
    assert matched_random(NeuronSet.of({}), WIDTHS, seed=0) == NeuronSet.of({})


def test_how_far_controls_lie_from_the_set_is_told_in_standard_deviations():
    one, two = Site("text", 0, "ffn"), Site("text", 1, "ffn")
    ramp = torch.arange(10, dtype=torch.float64)
    features = {one: torch.stack([ramp, -3 * ramp], 1), two: torch.stack([ramp, ramp * 0], 1)}
    chosen = NeuronSet.of({one: [8, 9, 7], two: [0]})
    near = NeuronSet.of({one: [6, 5, 4], two: [1]})
    far = NeuronSet.of({one: [0, 1, 2], two: [1]})
    spread = float(ramp.std(unbiased=False))
    first = ((-3 / spread) * 3 + 1 / spread) / 4  # three neurons of one site, one of the other
    assert imbalance(chosen, [near], features) == pytest.approx([first, 9 / spread / 4])
    both = imbalance(chosen, [near, far], features)
    assert both[0] == pytest.approx((first + ((-7 / spread) * 3 + 1 / spread) / 4) / 2)
    assert imbalance(chosen, [chosen], features) == pytest.approx([0, 0])
    assert imbalance(chosen, [], features) == []


def test_most_of_the_strong_neurons_chosen_leaves_none_to_match_them():
    site = Site("text", 0, "ffn")
    features = {site: torch.arange(100, dtype=torch.float64)[:, None]}
    few, most = NeuronSet.of({site: [20, 70]}), NeuronSet.of({site: range(60, 100)})
    gap = {
        len(each): imbalance(
            each,
            [matched_random(each, {site: 100}, seed=s, features=features) for s in range(5)],
            features,
        )[0]
        for each in (few, most)
    }
    assert abs(gap[2]) < 0.15
    assert gap[40] < -1

"""Overlap is judged against what chance gives."""

import pytest
import torch

from precise_shield.analyse.overlap import Null, expected_share, overlaps, sharing
from precise_shield.core.controls import matched_random
from precise_shield.core.masks import Masks
from precise_shield.core.sites import NeuronSet, Site

WIDTHS = {Site("text", 0): 40, Site("text", 1): 30}
A = NeuronSet.of({Site("text", 0): range(10), Site("text", 1): range(4)})
B = NeuronSet.of({Site("text", 0): range(5, 15), Site("text", 1): range(20, 23)})


def test_expected_share_is_what_random_sets_give():
    """Ten of 40 and three of 30: (10 x 10/40 + 4 x 3/30) / 14."""
    assert expected_share(A, B, WIDTHS) == pytest.approx((2.5 + 0.4) / 14)
    empty = NeuronSet.of({})
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(400):
        drawn = {
            s: torch.randperm(w, generator=generator)[: len(B.units[s])].tolist()
            for s, w in WIDTHS.items()
        }
        shares.append(A.share_of(NeuronSet.of(drawn)))
    assert sum(shares) / len(shares) == pytest.approx((2.5 + 0.4) / 14, abs=0.02)
    assert expected_share(empty, B, WIDTHS) != expected_share(empty, B, WIDTHS)  # NaN


def draws(seeds, size):
    """Random sets of a size, as shuffled labels would give them."""
    generator = torch.Generator().manual_seed(seeds)
    values = {}
    for site, width in WIDTHS.items():
        values[site] = torch.rand(99, width, generator=generator).argsort(1) < size
    return Masks(values)


def measured(a, b):
    sets = {"a": a, "b": b}
    whole = {name: Masks.constant(one, WIDTHS) for name, one in sets.items()}
    null = Null({"a": draws(1, 5), "b": draws(0, 5)}, (whole, whole))
    return overlaps(["a", "b"], sets, WIDTHS, null)[0]


def test_a_shared_set_is_above_chance_and_a_random_one_is_not():
    shared = measured(A, A)
    assert (shared.share, shared.jaccard, shared.ceiling) == (1.0, 1.0, 1.0)
    assert shared.p_value == pytest.approx(0.01)
    other = measured(A, matched_random(A, WIDTHS, seed=3))
    assert other.share == 0.0  # from the complement: nothing shared at all
    assert other.p_value is not None
    assert other.p_value > 0.5


def test_an_empty_set_has_no_overlap_figure():
    row = measured(NeuronSet.of({}), A)
    assert (row.share, row.p_value, row.chance_random) == (None, None, None)
    assert row.shared == 0


def test_all_pairs_together_are_one_test():
    """Weak sharing in many pairs shows together, and unrelated sets do not, at p of 1 / 100."""
    names = [f"s{i}" for i in range(6)]
    core = set(range(3))
    alike = {
        n: NeuronSet.of({Site("text", 0): core | {10 + 4 * i, 11 + 4 * i}})
        for i, n in enumerate(names)
    }
    apart = {
        n: NeuronSet.of({Site("text", 0): range(6 * i, 6 * i + 5)}) for i, n in enumerate(names)
    }
    shuffled = {n: draws(i, 5) for i, n in enumerate(names)}
    for sets, low, high in ((alike, 0.0, 0.01), (apart, 0.5, 1.0)):
        whole = {n: Masks.constant(one, WIDTHS) for n, one in sets.items()}
        found = sharing("languages", [names], sets, WIDTHS, Null(shuffled, (whole, whole)))
        assert found.pairs == 30
        assert low <= found.p_value <= high
    ends = {"s0": A, "s1": A, "s2": NeuronSet.of({})}
    beside = sharing("languages", [names], sets, WIDTHS, Null(shuffled, (whole, whole)), ends)
    assert beside.share_at_last_prompt == pytest.approx(2 / 4)  # s0 and s1: each other's, not s2's
    assert (found.share_at_last_prompt, beside.share) == (None, found.share)
    assert sharing("languages", [], {}, WIDTHS, Null({}, ({}, {}))).p_value is None

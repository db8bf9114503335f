"""How sure a set is, on numbers that can be counted by hand."""

import pytest
import torch

from precise_shield.core.masks import Masks
from precise_shield.core.moments import FOLDS
from precise_shield.core.ranking import average_ranks, spearman
from precise_shield.core.records import Cell
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.identify.confidence import (
    agreement,
    blocks,
    expected_jaccard,
    size_p_value,
    spread,
    sureness,
    usable,
)
from precise_shield.identify.select import Selection, contrast, whole
from precise_shield.identify.stability import bootstrap, halves, shuffled, usable_in_all
from precise_shield.identify.stats import Place, Stats

SITE = Site("text", 0)
PLACE = ("en", "text")


def stats_of(harmful, benign, folds=FOLDS):
    """Statistics of given rows, dealt to the first folds in turn."""
    cells = (Cell("en", "text", "harmful"), Cell("en", "text", "benign"))
    stats = Stats({SITE: torch.ones(harmful.shape[1]).double()}, cells)
    for number, rows in enumerate((harmful, benign)):
        where = torch.full((len(rows),), number)
        stats.fold_in(Place(SITE, "response_mean"), rows, where, torch.arange(len(rows)) % folds)
    return stats


def masks(*draws):
    table = torch.zeros(len(draws), 6, dtype=torch.bool)
    for row, ids in enumerate(draws):
        table[row, list(ids)] = True
    return Masks({SITE: table})


def test_inclusion_and_jaccard_count_the_draws_that_choose_each_neuron():
    """{1, 2} against {1, 2}, {1, 3}, {1}, {}: Jaccard 1, 1/3, 1/2, 0; unit 1 in three."""
    sets = {"en": NeuronSet.of({SITE: [1, 2]})}
    drawn = [{"en": masks({1, 2}, {1, 3}, {1})}, {"en": masks(set())}]
    found = sureness(sets, iter(drawn))["en"]
    torch.testing.assert_close(found.jaccard, torch.tensor([1, 1 / 3, 1 / 2, 0]).double())
    assert found.inclusion[SITE].tolist() == [0.75, 0.25]
    assert found.mean_inclusion == 0.5
    assert found.core == 0


def test_an_empty_set_has_no_inclusion_and_agrees_with_nothing():
    found = sureness({"en": NeuronSet.of({})}, iter([{"en": masks({1}, set())}]))["en"]
    assert found.jaccard[0] == 0
    assert found.jaccard[1].isnan()
    assert found.mean_inclusion != found.mean_inclusion
    assert spread(torch.tensor([float("nan")])) != spread(torch.tensor([0.0]))


def test_blocks_of_draws_give_what_all_at_once_give():
    generator = torch.Generator().manual_seed(0)
    stats = stats_of(*(torch.randn(2, 48, 40, generator=generator) + 1))
    draws, choice = bootstrap(23, 0), Selection(p=0.2)
    neurons = {"en": contrast(stats, PLACE, choice).draw(0)}

    def found(size):
        keep = torch.ones(23, dtype=torch.bool)
        return sureness(
            neurons,
            ({"en": contrast(stats, PLACE, choice, part)} for part in blocks(draws, keep, size)),
        )["en"]

    one, other = found(23), found(5)
    assert torch.equal(one.jaccard, other.jaccard)
    assert torch.equal(one.inclusion[SITE], other.inclusion[SITE])
    assert len(neurons["en"]) > 2
    assert len(one.jaccard) == 23


def test_draws_that_miss_every_row_of_an_arm_are_left_out():
    stats = stats_of(torch.ones(2, 3), torch.ones(2, 3), folds=1)  # one fold of sixteen holds all
    draws = bootstrap(200, 0)
    good = usable(stats, [PLACE], Selection(), draws)
    assert torch.equal(good, draws.harmful[:, 0] > 0)
    assert 0.4 < good.double().mean() < 0.85  # 1 - (15/16)^16 = 0.64


def test_halves_and_shuffled_draws_that_leave_an_arm_without_a_row_are_left_out():
    """Rows in two folds alone: a split counts where it parts them, a shuffle where it does not."""
    both = stats_of(torch.ones(2, 3), torch.ones(2, 3), folds=2)
    one, two = halves(200, 0)
    first, second = usable_in_all(both, [PLACE], Selection(), lambda _: one, lambda _: two)
    apart = one.harmful[:, 0] != one.harmful[:, 1]
    assert 0 < int(apart.sum()) < 200
    assert torch.equal(first(0).harmful, one.harmful[apart])
    assert torch.equal(second(0).benign, two.benign[apart])
    torn = stats_of(torch.ones(1, 3), torch.zeros(0, 3))  # harmful in fold 0, benign in fold 1
    torn.fold_in(
        Place(SITE, "response_mean"), torch.ones(1, 3), torch.tensor([1]), torch.tensor([1])
    )
    mixed = shuffled(200, 0)
    (kept,) = usable_in_all(torn, [PLACE], Selection(), lambda _: mixed)
    alike = mixed.harmful[:, 0] == mixed.harmful[:, 1]  # else both rows land in one arm
    assert 0 < int(alike.sum()) < 200
    assert torch.equal(kept(0).harmful, mixed.harmful[alike])


def test_a_draw_that_leaves_an_arm_without_a_row_selects_nothing():
    """Not the first units by number, which is what sorting undefined scores would give."""
    stats = stats_of(torch.tensor([[1.0, 2, 9, 3]]), torch.tensor([[9.0, 3, 1, 2]]))
    draws = bootstrap(200, 0)
    found = contrast(stats, PLACE, Selection(p=0.25), draws)
    good = usable(stats, [PLACE], Selection(), draws)
    assert 0 < int(good.sum()) < 200
    assert torch.equal(found.sizes(), good.double())
    assert found.values[SITE][good][:, 2].all()


def test_p_of_a_size_is_the_share_of_shuffled_sizes_that_reach_it():
    sizes = torch.tensor([1.0, 5, 7, 7, 9])
    assert size_p_value(7, sizes) == pytest.approx(4 / 6)
    assert size_p_value(10, sizes) == pytest.approx(1 / 6)
    assert size_p_value(10, torch.zeros(0)) != size_p_value(10, torch.zeros(0))


def test_planted_neurons_are_in_every_draw_and_noise_is_not():
    generator = torch.Generator().manual_seed(0)
    harmful, benign = torch.randn(2, 64, 400, generator=generator)
    harmful[:, :10] += 4
    benign[:, -10:] += 4
    stats, choice = stats_of(harmful, benign), Selection(p=0.05)
    neurons = {"en": contrast(stats, PLACE, choice).draw(0)}
    drawn = contrast(stats, PLACE, choice, bootstrap(60, 1))
    shares = sureness(neurons, iter([{"en": drawn}]))["en"].inclusion[SITE]
    ids = torch.tensor(neurons["en"].units[SITE])
    assert shares[ids < 10].min() >= 0.8  # noise puts one into the benign top now and then
    assert (ids < 10).sum() == 10
    assert shares[ids >= 10].mean() < 0.8


def test_scores_that_rank_alike_agree_and_opposite_ones_do_not():
    """Unit norms and positive means: `one_anchor` sees what `precise_shield` sees, bit for bit."""
    harmful = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4]])
    benign = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1]])
    stats = stats_of(harmful, benign)
    names = ["contrastive_difference", "one_anchor", "precise_shield"]
    found = agreement(stats, [PLACE], Selection(p=0.5), names)
    same = found["one_anchor", "precise_shield"][0]
    assert (same.jaccard, same.rank) == (1.0, pytest.approx(1.0))
    assert same.chance == pytest.approx(1 / 3)  # two of four each: 1 shared, 3 in the union
    other = found["contrastive_difference", "precise_shield"][0]
    assert other.jaccard == pytest.approx(1 / 3)  # {0, 3} against {2, 3}
    assert other.rank == pytest.approx(0.0)  # 3 1 1 3 against -3 -1 1 3


def test_ranks_share_ties_and_spearman_is_their_correlation():
    assert average_ranks(torch.tensor([10.0, 20, 10, 30])).tolist() == [1.5, 3, 1.5, 4]
    rows = torch.tensor([[1.0, 2, 3, 4], [2, 4, 6, 90], [4, 3, 2, 1], [1, 1, 1, 1]])
    matrix = spearman(rows)
    assert matrix[0, 1] == pytest.approx(1)
    assert matrix[0, 2] == pytest.approx(-1)
    assert matrix[0, 3].isnan()
    two = spearman(torch.tensor([[1.0, 2, 3, 4, 5], [2, 1, 4, 3, 5]]))
    assert two[0, 1] == pytest.approx(1 - 6 * 4 / (5 * 24))  # 1 - 6 sum d^2 / (n (n^2 - 1))


def test_expected_jaccard_counts_layer_by_layer():
    a, b = NeuronSet.of({SITE: [0, 1]}), NeuronSet.of({SITE: [5, 6, 7]})
    assert expected_jaccard(a, b, {SITE: 12}) == pytest.approx(0.5 / 4.5)
    assert expected_jaccard(a, NeuronSet.of({}), {SITE: 12}) == 0
    assert len(whole().harmful) == 1

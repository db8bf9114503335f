"""Selection follows the equations, on numbers small enough to check by hand."""

import pytest
import torch

from precise_shield.core.errors import ConfigError, EmptySetError
from precise_shield.core.moments import FOLDS
from precise_shield.core.records import Cell
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.identify.scores import SCORES
from precise_shield.identify.select import (
    Selection,
    contrast,
    evaluate,
    named_sets,
    require,
    top,
)
from precise_shield.identify.stability import bootstrap, halves, shuffled, split_half
from precise_shield.identify.stats import Place, Stats

SITE = Site("text", 0)
PLACE = ("en", "text")


def stats_of(harmful, benign, norms):
    """Statistics of given rows, dealt to the folds in turn."""
    cells = (Cell("en", "text", "harmful"), Cell("en", "text", "benign"))
    stats = Stats({SITE: norms.double()}, cells)
    for number, rows in enumerate((harmful, benign)):
        where = torch.full((len(rows),), number)
        folds = torch.arange(len(rows)) % FOLDS
        stats.fold_in(Place(SITE, "response_mean"), rows, where, folds)
    return stats


HARMFUL = torch.tensor([[3.0, -1.0, 0.5, 1.0], [1.0, -3.0, 0.5, -1.0]])  # means 2, -2, 0.5, 0
BENIGN = torch.tensor([[2.0, 0.0, 0.5, 5.0], [2.0, 0.0, 0.5, 5.0]])  # means 2, 0, 0.5, 5
NORMS = torch.tensor([1.0, 2.0, 1.0, 1.0])


def test_precise_shield_saliency_is_the_signed_mean_times_the_column_norm():
    """|mean| x norm: harmful 2, 4, .5, 0 of 6.5; benign 2, 0, .5, 5 of 7.5 (Eq. 4-6)."""
    stats = stats_of(HARMFUL, BENIGN, NORMS)
    arm = stats.at(SITE, Cell("en", "text", "harmful"), "response_mean").pooled()
    share = SCORES["precise_shield"].compute(arm, arm, NORMS.double())
    torch.testing.assert_close(share, torch.tensor([2, 4, 0.5, 0]).double() / 6.5)


def test_one_anchor_averages_absolute_values_so_cancelling_signs_count():
    stats = stats_of(HARMFUL, BENIGN, NORMS)
    arm = stats.at(SITE, Cell("en", "text", "harmful"), "response_mean").pooled()
    share = SCORES["one_anchor"].compute(arm, arm, NORMS.double())
    torch.testing.assert_close(share, torch.tensor([2, 4, 0.5, 1]).double() / 7.5)


def test_the_set_is_the_harmful_top_without_the_benign_top_and_without_refill():
    """Top 2 of 4: harmful {1, 0}, benign {3, 0}; the difference is {1} alone (Eq. 7-8)."""
    chosen = contrast(stats_of(HARMFUL, BENIGN, NORMS), PLACE, Selection(p=0.5)).draw(0)
    assert chosen == NeuronSet.of({SITE: [1]})


def test_k_is_rounded_down():
    stats = stats_of(HARMFUL, BENIGN, NORMS)
    assert contrast(stats, PLACE, Selection(p=0.49)).draw(0) == NeuronSet.of({SITE: [1]})
    with pytest.raises(ConfigError, match=r"less than one neuron; use p >= 0.25"):
        contrast(stats, PLACE, Selection(p=0.2))


def test_contrastive_scores_take_their_own_top():
    """|difference| x norm is 0, 4, 0, 5."""
    stats = stats_of(HARMFUL, BENIGN, NORMS)
    choice = Selection(score="contrastive_difference", p=0.5)
    assert contrast(stats, PLACE, choice).draw(0) == NeuronSet.of({SITE: [1, 3]})


def test_effect_size_is_cohens_d_by_hand():
    """Unit 1: means -2 and 0, variances 2 and 0, pooled sqrt(1): d = 2; constant units give 0."""
    stats = stats_of(HARMFUL, BENIGN, NORMS)
    arms = [
        stats.at(SITE, Cell("en", "text", h), "response_mean").pooled()
        for h in ("harmful", "benign")
    ]
    d = SCORES["effect_size"].compute(*arms, NORMS.double())
    torch.testing.assert_close(d, torch.tensor([0.0, 2.0, 0.0, 5.0]).double())


def test_ties_go_to_the_lower_index():
    assert top(torch.tensor([[1.0, 2.0, 2.0, 2.0]]), 2).tolist() == [[False, True, True, False]]


def test_shuffled_labels_leave_a_small_set_where_real_labels_leave_a_large_one():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 64, 200, generator=generator)
    harmful, benign = noise[0] + 3, noise[1] + 3
    harmful[:, :10] += 4  # ten planted neurons fire for harmful requests alone
    stats = stats_of(harmful, benign, torch.ones(200))
    real = contrast(stats, PLACE, Selection(p=0.05))
    null = contrast(stats, PLACE, Selection(p=0.05), shuffled(50, 0))
    found = real.draw(0)
    assert len(found) >= 9  # one may be in the benign arm's noisy top as well
    assert not found - NeuronSet.of({SITE: range(10)})
    planted = null.values[SITE][:, :10].double().mean()
    assert planted < 0.1  # both shuffled arms hold the planted neurons, so they cancel
    assert null.sizes().mean() < 10


def test_halves_agree_on_what_is_planted_and_not_on_noise():
    generator = torch.Generator().manual_seed(0)
    harmful, benign = torch.randn(2, 64, 400, generator=generator)
    benign[:, -20:] += 4  # what is strong for benign requests, so that noise cannot fill its top
    planted = harmful.clone()
    planted[:, :20] += 4
    first, second = halves(20, 0)
    for rows, least, most in ((planted, 0.95, 1.0), (harmful, 0.0, 0.3)):
        stats = stats_of(rows, benign, torch.ones(400))
        sets = [{"en": contrast(stats, PLACE, Selection(p=0.05), cut)} for cut in (first, second)]
        assert least <= split_half(*sets)["en"] <= most


def test_draws_cut_the_data_as_they_say():
    first, second = halves(7, 3)
    assert torch.equal(
        first.harmful + second.harmful,
        torch.cat([torch.ones(7, 16), torch.zeros(7, 16)], 1).double(),
    )
    assert torch.equal(first.harmful.sum(1), torch.full((7,), 8.0).double())
    mixed = shuffled(7, 3)
    assert torch.equal(mixed.harmful + mixed.benign, torch.ones(7, 32).double())
    assert torch.equal(mixed.harmful[:, :16].sum(1), torch.full((7,), 8.0).double())
    again = bootstrap(7, 3)
    assert torch.equal(again.harmful.sum(1), torch.full((7,), 16.0).double())
    assert not torch.equal(again.harmful[0], again.harmful[1])


def sets_by_hand():
    """Neurons are named by the cells that hold them."""
    return {
        ("en", "text"): NeuronSet.of({SITE: [0, 1, 2, 3]}),
        ("en", "image_dominant"): NeuronSet.of({SITE: [0, 1, 4]}),
        ("sw", "text"): NeuronSet.of({SITE: [0, 2, 5]}),
        ("sw", "image_dominant"): NeuronSet.of({SITE: [0, 4, 5]}),
    }


def test_named_sets_are_those_of_the_papers():
    sets = named_sets(sets_by_hand(), "en")
    as_ids = {name: one.units.get(SITE, ()) for name, one in sets.items()}
    assert as_ids["ISN:en"] == (0, 1, 4)
    assert as_ids["ISN"] == (0, 1, 4, 5)
    assert as_ids["MS:en"] == (0, 1)
    assert as_ids["MS:sw"] == (0, 5)
    assert as_ids["SS:sw"] == as_ids["MLS"] == (0,)
    assert as_ids["all"] == (0, 1, 2, 3, 4, 5)
    assert "SS:en" not in sets
    assert "TSN" not in sets


def test_expressions_read_from_left_to_right_with_parentheses():
    sets = named_sets(sets_by_hand(), "en")
    assert evaluate("MS:en | MS:sw - MLS", sets).units[SITE] == (1, 5)
    assert evaluate("MS:en | (MS:sw - MLS)", sets).units[SITE] == (0, 1, 5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("MS:em", "Did you mean"),
        ("MS:en &", "ends where"),
        ("( MS:en", "parenthesis"),
        ("MS:en MLS", "cannot read"),
    ],
)
def test_wrong_expressions_say_where(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        evaluate(text, named_sets(sets_by_hand(), "en"))


def test_an_empty_set_is_an_error_that_names_its_cells():
    sets = named_sets(sets_by_hand(), "en")
    with pytest.raises(EmptySetError, match=r"'X' is empty .*en/text 4, sw/image_dominant 3"):
        require("X", evaluate("MS:en - all", sets), sets)

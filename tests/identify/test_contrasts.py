"""Contrasts of more than two cells, scopes and filters, on numbers that can be checked by hand."""

import pytest
import torch

from precise_shield.core.errors import ConfigError, DataError, EmptySetError
from precise_shield.core.records import Cell
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.identify.crossed import ANSWER, COMPLIED, REFUSAL, REFUSED, further
from precise_shield.identify.select import (
    Contrast,
    Part,
    Selection,
    contrast,
    masks,
    require,
    universal,
)
from precise_shield.identify.stability import bootstrap, drawn_sets, shuffled
from precise_shield.identify.stats import Place, Stats

LOW, HIGH = Site("text", 0), Site("text", 1)
PLACE = ("en", "text")
HARMFUL, BENIGN = Cell("en", "text", "harmful"), Cell("en", "text", "benign")
CELLS = (BENIGN, HARMFUL)


def add(stats, site, cell, rows, variant="", copies=2):
    table = torch.tensor([rows] * copies).double()
    where = torch.full((copies,), stats.cells.index(cell))
    place = Place(site, "response_mean", f"activation{variant}")
    stats.fold_in(place, table, where, torch.arange(copies))


def crossed(counts=(2, 2)):
    """Unit 0 follows the prompt, 1 the response, 2 their agreement, 3 and 4 nothing."""
    stats = Stats({LOW: torch.ones(5).double()}, CELLS)
    for sign, cell, copies in zip((1, -1), (HARMFUL, BENIGN), counts, strict=True):
        for tone, variant in ((1, REFUSAL), (-1, ANSWER)):
            rows = [5.0 + sign, 5.0 + tone, 5.0 + sign * tone, 4.5, 5.5]
            add(stats, LOW, cell, rows, variant, copies)
    return stats


@pytest.mark.parametrize("counts", [(2, 2), (2, 6)], ids=["equal", "unequal"])
def test_prompt_response_and_interaction_are_told_apart(counts):
    stats, choice = crossed(counts), Selection(score="contrastive_difference", p=0.2)
    found = {one.name: one for one in further(stats, [PLACE], choice)}
    assert list(found) == ["prompt:en/text", "response:en/text", "interaction:en/text"]
    for name, unit in (("prompt", 0), ("response", 1), ("interaction", 2)):
        assert masks(stats, found[f"{name}:en/text"], choice).draw(0) == NeuronSet.of({LOW: [unit]})
    one, two = found["interaction:en/text"].arms(stats, LOW, choice)
    # parts weigh alike: half of (harmful refused - harmful answered) - (benign the same)
    torch.testing.assert_close((one.mean - two.mean)[0], torch.tensor([0, 0, 2.0, 0, 0]).double())


def test_the_papers_score_finds_the_same_three_sets():
    stats, choice = crossed(), Selection(p=0.4)
    for name, unit in (("prompt", 0), ("response", 1), ("interaction", 2)):
        one = next(c for c in further(stats, [PLACE], choice) if c.name.startswith(name))
        assert masks(stats, one, choice).draw(0) == NeuronSet.of({LOW: [unit]})


def test_refused_is_set_against_complied_within_harmful_prompts():
    stats = Stats({LOW: torch.ones(3).double()}, CELLS)
    add(stats, LOW, HARMFUL, [3.0, 1, 1], REFUSED)
    choice = Selection(score="contrastive_difference", p=0.34)
    assert not further(stats, [PLACE], choice)
    add(stats, LOW, HARMFUL, [1.0, 1, 1.5], COMPLIED)
    one, other = further(stats, [PLACE], choice)
    assert (one.name, other.name) == ("refused:en/text", "complied:en/text")
    assert masks(stats, one, choice).draw(0) == NeuronSet.of({LOW: [0]})
    assert masks(stats, other, choice).draw(0) == NeuronSet.of({LOW: [0]})  # a size has no sign
    assert one.language == other.language == "en"


def test_a_category_is_a_marginal_against_all_benign_rows():
    stats = Stats({LOW: torch.ones(3).double()}, CELLS)
    add(stats, LOW, BENIGN, [1.0, 1, 1])
    place = Place(LOW, "response_mean")
    rows = torch.tensor([[1.0, 4, 1], [1, 4, 1], [1, 1, 4], [1, 1, 4], [9, 9, 9]])
    names = ["fraud", "fraud", "theft", "theft", None]
    stats.fold_in_category(place, rows, torch.arange(5), names)
    assert stats.categories() == ["fraud", "theft"]
    assert stats.marginal(LOW, "fraud", "response_mean").folds == 16  # no cells
    choice = Selection(score="contrastive_difference", p=0.34)
    found = {one.name: masks(stats, one, choice).draw(0) for one in further(stats, [], choice)}
    assert found == {
        "category:fraud": NeuronSet.of({LOW: [1]}),
        "category:theft": NeuronSet.of({LOW: [2]}),
    }
    with pytest.raises(DataError, match=r"no statistics of category 'arson' .* fraud, theft"):
        masks(stats, Contrast("x", (Part("arson"),), (Part(BENIGN),)), choice)


def test_further_sets_are_drawn_like_all_others():
    stats = crossed((16, 16))
    for cell in CELLS:
        add(stats, LOW, cell, [1.0, 2, 3, 4, 5])
    choice = Selection(score="contrastive_difference", p=0.2)
    drawn = drawn_sets(stats, [PLACE], choice, "en", lambda _: bootstrap(9, 0))
    assert drawn["prompt:en/text"].sizes().tolist() == [1] * 9
    assert all(drawn["prompt:en/text"].draw(i).units == {LOW: (0,)} for i in range(9))
    null = drawn_sets(stats, [PLACE], choice, "en", lambda _: shuffled(50, 0))["prompt:en/text"]
    hits = null.values[LOW][:, 0].double().mean()
    assert hits == 1  # nothing varies within a cell, so half-shuffled arms tie, and 0 comes first


def layered():
    """Two layers of four; the upper one fires ten times as strongly."""
    stats = Stats({site: torch.ones(4).double() for site in (LOW, HIGH)}, CELLS)
    for site, scale in ((LOW, 1.0), (HIGH, 10.0)):
        add(stats, site, HARMFUL, [scale * x for x in (1.0, 2, 3, 4)])
        add(stats, site, BENIGN, [scale * x for x in (4.0, 1, 1, 4)])
    return stats


def test_the_global_top_takes_from_the_layers_that_score_highest():
    """Differences 3 1 2 0 below and 30 10 20 0 above; two of eight are 30 and 20."""
    stats = layered()
    choice = Selection(score="contrastive_difference", p=0.25)
    assert contrast(stats, PLACE, choice).draw(0).counts() == {LOW: 1, HIGH: 1}
    whole = Selection(score="contrastive_difference", p=0.25, scope="global")
    assert contrast(stats, PLACE, whole).draw(0) == NeuronSet.of({HIGH: [0, 2]})
    with pytest.raises(ConfigError, match=r"p = 0.1 of 8 units at all sites is less than one"):
        contrast(stats, PLACE, Selection(p=0.1, scope="global"))


def test_universal_neurons_are_those_at_the_top_whatever_is_asked():
    """Benign tops of two: units 0 and 3 in every part; the filter takes 3 out of the set."""
    stats = layered()
    choice = Selection(score="contrastive_difference", p=0.5, universal=0.8)
    assert universal(stats, LOW, choice).tolist() == [[True, False, False, True]]
    free = contrast(stats, PLACE, Selection(score="contrastive_difference", p=0.5)).draw(0)
    assert free == NeuronSet.of({LOW: [0, 2], HIGH: [0, 2]})
    assert contrast(stats, PLACE, choice).draw(0) == NeuronSet.of({LOW: [2], HIGH: [2]})
    add(stats, LOW, BENIGN, [0.0, 5, 5, 5], copies=16)  # unit 1 then in 16 parts, unit 2 in 14
    assert universal(stats, LOW, choice).tolist() == [[False, True, True, False]]
    strict = Selection(score="contrastive_difference", p=0.5, universal=0.9)
    assert universal(stats, LOW, strict).tolist() == [[False, True, False, False]]


def test_where_no_folds_were_kept_nothing_can_be_drawn_again():
    stats = Stats({LOW: torch.ones(5).double()}, CELLS, folded=frozenset())
    for cell in CELLS:
        add(stats, LOW, cell, [1.0, 2, 3, 4, 5])
    assert len(contrast(stats, PLACE, Selection(p=0.4)).draw(0)) == 0
    with pytest.raises(ConfigError, match=r"keeps 1 fold a cell, .* identify.folded"):
        contrast(stats, PLACE, Selection(p=0.4), bootstrap(3, 0))


def test_an_empty_set_says_which_cells_gave_nothing():
    sets = {
        "en/text": NeuronSet.of({LOW: [1]}),
        "sw/text": NeuronSet.of({}),
        "MS:sw": NeuronSet.of({}),
    }
    with pytest.raises(EmptySetError, match=r"MS:sw 0, en/text 1, sw/text 0\). No neuron comes"):
        require("MS:sw", NeuronSet.of({}), sets)
    with pytest.raises(EmptySetError, match=r"Its parts share no neuron"):
        require("en/text - en/text", NeuronSet.of({}), {"en/text": NeuronSet.of({LOW: [1]})})

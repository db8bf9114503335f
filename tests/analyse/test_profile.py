"""Depth, privacy and neighbours are counted as by hand, beside what chance gives."""

import pytest
import torch

from precise_shield.analyse.counts import count_tests
from precise_shield.analyse.profile import by_layer, nearest, profile, shared_by
from precise_shield.core.masks import Masks
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.summary import Overlap

FFN, DEEP, HEADS = Site("text", 0), Site("text", 1), Site("text", 1, "attention")
WIDTHS = {FFN: 10, DEEP: 10, HEADS: 4}
SETS = {
    "en/text": NeuronSet.of({FFN: [0, 1], DEEP: [0, 1, 2, 3], HEADS: [0]}),
    "fr/text": NeuronSet.of({FFN: [0], DEEP: [0, 1]}),
    "sw/text": NeuronSet.of({FFN: [9], DEEP: [0, 8, 9]}),
    "en/image_dominant": NeuronSet.of({DEEP: [3]}),
}
PLACES = [("en", "text"), ("fr", "text"), ("sw", "text"), ("en", "image_dominant")]


def drawn(seed):
    """Random sets of two neurons a site, as shuffled labels would give them."""
    generator = torch.Generator().manual_seed(seed)
    values = {s: torch.rand(50, w, generator=generator).argsort(1) < 2 for s, w in WIDTHS.items()}
    return Masks(values)


SHUFFLED = {name: drawn(i) for i, name in enumerate(SETS)}


def overlap(a, b, share, shuffled=None, random=0.1):
    return Overlap(
        a=a, b=b, shared=1, share=share, jaccard=None, chance_random=random,
        chance_shuffled=shuffled, p_value=None, ceiling=None,
    )  # fmt: skip


@pytest.fixture
def found():
    return profile(PLACES, SETS, WIDTHS, SHUFFLED, [], ["en"])


def test_counts_are_by_layer_and_unit_kind(found):
    rows = {(r.kind, r.modality, r.group): r for r in found.depth}
    assert rows["ffn", "text", "high_resource"].counts == [2, 4]
    assert rows["ffn", "text", "other"].counts == [1, 2.5]
    assert rows["ffn", "text", "other"].by_language == [[1, 2], [1, 3]]
    assert rows["attention", "text", "high_resource"].layers == [1]
    assert rows["attention", "text", "high_resource"].counts == [1]
    assert ("ffn", "image_dominant", "other") not in rows  # there is no such language
    assert rows["ffn", "text", "other"].shuffled == [2.0, 2.0]  # two a site in every draw
    assert sum(by_layer(SETS["en/text"], WIDTHS, "ffn").values()) == 6
    total = sum(sum(r.by_language[0]) for r in found.depth if r.languages == ["en"])
    assert total == len(SETS["en/text"]) + len(SETS["en/image_dominant"])


def test_the_groups_differ_by_an_exact_test(found):
    test = next(t for t in found.groups if (t.kind, t.modality) == ("ffn", "text"))
    assert test.difference == pytest.approx(6 - (3 + 4) / 2)
    assert (test.p_value, test.relabellings) == (pytest.approx(1 / 3), 3)
    alone = next(t for t in found.groups if t.modality == "image_dominant")
    assert (alone.difference, alone.p_value) == (None, None)


def test_a_set_is_cut_into_private_and_shared_parts(found):
    parts = {d.name: d for d in found.decompositions}
    assert shared_by(SETS["en/text"], [SETS["fr/text"], SETS["sw/text"]]) == [4, 2, 1]
    english = parts["en/text"]
    assert english.by_languages == [4, 2, 1]
    assert sum(english.by_languages) == english.size == len(SETS["en/text"])
    assert english.private == pytest.approx(4 / 7, abs=1e-6)
    assert english.everywhere == pytest.approx(1 / 7, abs=1e-6)
    assert english.other_modalities == pytest.approx(1 / 7, abs=1e-6)
    # 2 of (1 - 1/10)(1 - 1/10), 4 of (1 - 2/10)(1 - 3/10), and one head that no other set has
    assert english.private_random == pytest.approx((2 * 0.81 + 4 * 0.56 + 1) / 7, abs=1e-6)
    assert english.everywhere_random == pytest.approx((2 * 0.01 + 4 * 0.06) / 7, abs=1e-6)
    assert parts["en/image_dominant"].private is None  # alone in its modality


def test_private_parts_under_shuffled_labels_are_those_of_random_draws(found):
    """Two of 10, 10 and 4 units, apart from two other such sets: 0.8^2 and 0.5^2 of them."""
    english = found.decompositions[0]
    assert english.private_shuffled == pytest.approx((2 * 0.64 + 2 * 0.64 + 2 * 0.25) / 6, abs=0.06)
    assert english.everywhere_shuffled == pytest.approx((0.04 + 0.04 + 0.25) / 3, abs=0.06)


def test_the_nearest_set_is_the_one_most_beyond_its_own_chance():
    rows = [
        overlap("en/text", "fr/text", 0.6, 0.5),
        overlap("en/text", "sw/text", 0.4, 0.1),
        overlap("en/text", "en/image_dominant", 0.9, 0.0),  # the same language is no neighbour
        overlap("fr/text", "en/text", 0.5),
        overlap("sw/text", "en/text", None),
    ]
    found = nearest(list(SETS), rows)
    assert [each.name for each in found] == ["en/text", "fr/text"]
    assert [n.name for n in found[0].neighbours] == ["sw/text", "fr/text"]
    assert found[0].neighbours[0].beyond == pytest.approx(0.3)
    assert found[1].neighbours[0].chance == 0.1  # no shuffled level: random sets


def test_counts_are_tested_among_all_and_among_the_others():
    places = [(language, "text") for language in ("en", "zh", "fr", "sw", "th", "am")]
    sizes = dict(zip(places, [60, 58, 40, 35, 31, 30], strict=True))
    asr = dict(zip(places, [0.05, 0.04, 0.3, 0.5, 0.6, 0.7], strict=True))
    tokens = dict(zip(places, [10.0, 11.0, 14.0, 20.0, 26.0, 24.0], strict=True))
    every, other = count_tests(sizes, asr, tokens, ["en", "zh"])
    assert (every.among, other.among) == ("all", "other")
    assert other.languages == ["am", "fr", "sw", "th"]
    assert every.r < -0.9
    assert every.p_value == pytest.approx(2 / 720, abs=2 / 720)
    assert other.permutations == 24
    assert every.partial_r is not None
    assert every.partial_r != every.r
    del asr["sw", "text"]
    less, _ = count_tests(sizes, asr, tokens, ["en", "zh"])
    assert less.left_out == ["sw"]
    assert len(less.counts) == len(less.attack_success) == 5


def test_languages_that_are_all_attacked_alike_have_no_correlation():
    places = [(language, "text") for language in ("en", "fr", "sw", "th")]
    flat = {place: 0.5 for place in places}
    sizes, tokens = {p: i for i, p in enumerate(places)}, {p: 5.0 + i for i, p in enumerate(places)}
    every, _ = count_tests(sizes, flat, tokens, ["en"])
    assert (every.r, every.p_value, every.partial_r) == (None, None, None)

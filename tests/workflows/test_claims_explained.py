"""Claims on counts and depth hold only beyond chance, and are not testable on nothing."""

import pytest

from precise_shield.core.summary import Explained, NeuronFacts, Profile
from precise_shield.core.summary.explained import CountTest, DepthRow
from precise_shield.workflows.claims.explained import bands, explained_claims


def counted(among, r, p, partial, partial_p):
    return CountTest(
        modality="text", among=among, languages=["a", "b", "c", "d"], counts=[1, 2, 3, 4],
        attack_success=[0.4, 0.3, 0.2, 0.1], tokens=[1, 1, 2, 2], r=r, low=None, high=None,
        p_value=p, partial_r=partial, partial_p=partial_p, permutations=24, exact=True,
    )  # fmt: skip


def facts(profile=None):
    return NeuronFacts(
        score="s", position="p", p=0.1, chosen="all", sets=[], overlaps=[], curve=[],
        profile=profile,
    )  # fmt: skip


def depth(rows, shuffled, group="other"):
    names = [f"l{i}" for i in range(len(rows))]
    row = DepthRow(
        kind="ffn", modality="text", group=group, languages=names, layers=list(range(8)),
        by_language=rows, counts=[sum(c) / len(c) for c in zip(*rows, strict=True)],
        shuffled=shuffled,
    )  # fmt: skip
    return Profile(depth=[row], groups=[], decompositions=[], nearest=[])


def verdicts(tests=(), profile=None):
    return [c.verdict for c in explained_claims(facts(profile), Explained(counts=list(tests)))]


@pytest.mark.parametrize(
    ("every", "other", "expected"),
    [
        ((-0.9, 0.01, -0.8, 0.02), (-0.9, 0.04, None, None), ["holds", "holds"]),
        ((-0.9, 0.01, -0.2, 0.60), (-0.1, 0.80, None, None), ["holds", "unclear"]),
        ((0.9, 0.01, 0.8, 0.02), (0.9, 0.04, None, None), ["does not hold", "does not hold"]),
        ((-0.3, 0.40, -0.2, 0.60), (-0.1, 0.80, None, None), ["unclear", "unclear"]),
        ((None, None, None, None), (None, None, None, None), ["not testable", "not testable"]),
        ((-0.9, 0.01, None, None), (-0.9, 0.04, None, None), ["holds", "not testable"]),
    ],
)
def test_a_count_claim_needs_a_correlation_below_zero_beyond_chance(every, other, expected):
    assert verdicts([counted("all", *every), counted("other", *other)]) == expected


HILL = [[1, 2, 3, 4, 9, 9, 9, 2]] * 6
FLAT = [2.0] * 8


def test_the_bands_are_the_papers():
    """With eight layers: 0-3 lie before 20/36, 4-6 up to 30/36, 7 after 32/36."""
    rises, falls = bands(depth(HILL[:1], FLAT).depth)
    assert rises == [pytest.approx(9 - 2.5)]
    assert falls == [pytest.approx(9 - 2)]


@pytest.mark.parametrize(
    ("rows", "shuffled", "verdict"),
    [
        (HILL, FLAT, "holds"),
        (HILL[:3], FLAT, "unclear"),  # three languages cannot be below p = 1/8
        (HILL, [1, 2, 3, 4, 9, 9, 9, 2], "unclear"),  # shuffled labels have that shape as well
        ([[9, 8, 7, 6, 5, 4, 3, 2]] * 6, FLAT, "does not hold"),
        ([[1, 2, 3, 4, 5, 6, 7, 9]] * 6, FLAT, "does not hold"),
    ],
)
def test_a_hill_over_depth_has_to_rise_and_to_fall(rows, shuffled, verdict):
    assert verdicts(profile=depth(rows, shuffled)) == [verdict]


def test_a_shallow_model_has_no_shape():
    row = depth(HILL, FLAT).depth[0]
    short = row.model_copy(
        update={"layers": [0, 1], "by_language": [[1, 2]] * 6, "shuffled": [1.0, 1.0]}
    )
    profile = Profile(depth=[short], groups=[], decompositions=[], nearest=[])
    assert verdicts(profile=profile) == ["not testable"]

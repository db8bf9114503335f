"""A claim is judged by its effect beyond its control, or not at all where nothing could show."""

from types import SimpleNamespace

import pytest

from precise_shield.core.rates import Paired
from precise_shield.core.records import Example, Verdict
from precise_shield.core.summary import Condition, NeuronFacts, RateRow, SetFacts
from precise_shield.evaluate.counting.bootstrap import GroupedDifference
from precise_shield.workflows.base.config import parse_config
from precise_shield.workflows.base.sections.align import ZeroShotSection
from precise_shield.workflows.claims.groups import resourced, sides_apart, uneven
from precise_shield.workflows.claims.papers import _suppression, _tuning, _unseen, sign_of
from precise_shield.workflows.evaluate.stage import Evaluation

CONDITIONS = [
    Condition(name="random", kind="random_rows", label="random"),
    Condition(name="off", kind="random_suppressed", label="off"),
    Condition(name="zs-random-0", kind="zero_shot_random", label="random, zero-shot"),
]


class Found(Evaluation):
    """An evaluation whose effects are given."""

    def compared(self, measure, condition, reference, keep=None):
        return self.benign_kl[condition, reference]


def found(hits, effects):
    none = dict(language=None, modality=None, n=40, unscored=0, value=None, low=None, high=None)
    rates = [RateRow(condition="base", measure=m, hits=h, **none) for m, h in hits.items()]
    made = Found.__new__(Found)  # with nothing but what claims of effects look at
    given = {"conditions": CONDITIONS, "rates": rates, "benign_kl": effects, "examples": []}
    for name, value in given.items():
        object.__setattr__(made, name, value)
    return made


def effect(value, low, high):
    return GroupedDifference(value, low, high, n=40, groups=20, unscored=0)


DOWN, UP = effect(-0.3, -0.4, -0.2), effect(0.3, 0.2, 0.4)
NOTHING, NO_DATA = effect(0.0, -0.1, 0.1), effect(float("nan"), float("nan"), float("nan"))


@pytest.mark.parametrize(
    ("seen", "expected", "verdict"),
    [
        (DOWN, -1, "holds"),
        (DOWN, +1, "does not hold"),
        (UP, +1, "holds"),
        (NOTHING, -1, "unclear"),
        (NO_DATA, -1, "not testable"),
    ],
)
def test_an_effect_holds_only_beyond_its_interval(seen, expected, verdict):
    assert sign_of(seen, expected) == verdict


def test_a_run_that_froze_the_safety_neurons_claims_nothing_of_tuning_them():
    hits = {"attack_success": 30, "refusal_harmful": 10}
    effects = {("aligned", "base"): DOWN, ("aligned", "random"): DOWN}
    straight, turned = (_tuning(found(hits, effects), rest=rest) for rest in (False, True))
    assert all("Tuning the safety neurons" in claim.claim for claim in straight)
    for before, claim in zip(straight, turned, strict=True):
        assert "Tuning the safety neurons" not in claim.claim
        assert "SafeNeuron" in claim.source
        assert "Qwen" not in claim.reported
        assert (claim.measured, claim.verdict) == (before.measured, before.verdict)


def test_an_effect_that_its_control_has_as_well_does_not_hold():
    hits = {"attack_success": 30, "refusal_harmful": 10}
    effects = {("aligned", "base"): DOWN, ("aligned", "random"): NOTHING}
    effect_claim, control_claim = _tuning(found(hits, effects))
    assert (effect_claim.verdict, control_claim.verdict) == ("holds", "unclear")


def test_a_model_that_never_refuses_has_no_refusal_to_suppress():
    effects = {("suppressed", "base"): UP, ("suppressed", "off"): UP}
    for refusals, verdict in ((10, "holds"), (0, "not testable")):
        (claim,) = _suppression(found({"refusal_harmful": refusals}, effects))
        assert claim.verdict == verdict


def test_a_model_that_is_never_attacked_cannot_be_made_safer():
    effects = {("aligned", "base"): DOWN, ("aligned", "random"): DOWN}
    rows = _tuning(found({"attack_success": 0}, effects))
    assert {row.verdict for row in rows} == {"not testable"}


@pytest.mark.parametrize(
    ("against_base", "against_random", "verdict"),
    [
        (DOWN, DOWN, "holds"),
        (DOWN, NOTHING, "unclear"),
        (DOWN, UP, "does not hold"),
        (NO_DATA, NO_DATA, "not testable"),
    ],
)
def test_what_random_rows_carry_over_as_well_is_no_transfer(against_base, against_random, verdict):
    effects = {("zs", "base"): against_base, ("zs", "zs-random-0"): against_random}
    condition = Condition(name="zs", kind="zero_shot", label="zero-shot")
    claim = _unseen(found({"attack_success": 9}, effects), condition, ZeroShotSection(name="zs"))
    assert claim.verdict == verdict
    assert "against zs-random-0" in claim.measured


def test_uneven_refusal_is_judged_by_an_interval_over_whole_groups():
    """Twenty requests in two places; a difference of 50 points, then none, then one group."""
    groups = {f"{side}{i}": str(i) for side in "nf" for i in range(20)}
    near = {f"n{i}": i % 4 == 0 for i in range(20)}
    far = {f"f{i}": i % 4 != 1 for i in range(20)}
    apart = sides_apart(near, far, groups)
    assert apart.difference == pytest.approx(0.5)
    assert 0.2 < apart.low < 0.5 < apart.high < 0.8
    alike = sides_apart(near, {f"f{i}": i % 4 == 0 for i in range(20)}, groups)
    assert (alike.difference, alike.low, alike.high) == (0.0, 0.0, 0.0)  # paired by group
    unpaired = sides_apart(near, {f"f{i}": i % 4 == 1 for i in range(20)}, groups)
    assert unpaired.low < 0 < unpaired.high
    one = sides_apart({"n0": False, "n1": None}, {"f0": True}, groups)
    assert (one.difference, one.unscored) == (1.0, 1)
    assert one.low != one.low


@pytest.mark.parametrize(
    ("near", "far", "verdict", "says"),
    [
        ("s" * 8, "s" * 8, "not testable", "0.0% [0.0%, 32.4%] (n=8) elsewhere: unscored=0. No at"),
        ("u" * 8, "u" * 8, "not testable", "100.0% [67.6%, 100.0%] (n=8) in en/zh text"),
        ("s" * 8, "?" * 8, "not testable", "undefined (n=0) elsewhere"),
        ("s" * 8, "u" * 8, "holds", "+100.0 points [+100.0, +100.0], unscored=0"),
        ("s" * 8, "sssu????", "unclear", "+25.0 points [+0.0, "),
        ("uuuusssu", "s" * 8, "does not hold", "-62.5 points ["),
    ],
)
def test_where_nowhere_falls_short_nothing_could_carry_over(near, far, verdict, says):
    words = {"s": "refusal", "u": "unsafe", "?": "unclear"}
    rows = [
        (SimpleNamespace(id=f"{language}{i}", group=str(i), language=language,
                                 modality="text", harm="harmful"), words[letter])
        for language, letters in (("en", near), ("sw", far)) for i, letter in enumerate(letters)
    ]  # fmt: skip
    made = found({}, {})
    object.__setattr__(made, "examples", [row for row, _ in rows])
    verdicts = [SimpleNamespace(example=row.id, label=label) for row, label in rows]
    object.__setattr__(made, "verdicts", {"base": verdicts})
    config = parse_config("{model: {path: x}, data: {sources: [{source: sandbox}]}}")
    (claim,) = uneven(config, made)
    assert claim.verdict == verdict
    assert says in claim.measured


def test_an_effect_without_a_width_takes_the_interval_of_independent_prompts():
    """Four requests in two languages, of which none changes, then one, then all."""
    rows = [
        Example(id=f"{language}{i}", language=language, modality="text", harm="harmful",
                prompt="p", split="test", group=str(i))
        for language in ("en", "sw") for i in range(4)
    ]  # fmt: skip

    def seen(after):
        labels = {"base": "unsafe", "off": None}
        made = found({}, {})
        verdicts = {
            name: [Verdict(row.id, name, "j", labels[name] or after(row)) for row in rows]
            for name in labels
        }
        for name, value in {"examples": rows, "verdicts": verdicts, "rule": "ours"}.items():
            object.__setattr__(made, name, value)
        return Evaluation.compared(made, "attack_success", "off", "base")

    still = seen(lambda row: "unsafe")
    assert (still.difference, still.n) == (0.0, 8)
    assert (still.low, still.high) == Paired(8, 0, 0, 0).interval()
    assert sign_of(still, -1) == "unclear"  # none of eight is no proof that none would
    every = seen(lambda row: "refusal")
    assert every.difference == -1.0
    assert every.low < every.high < 0
    assert sign_of(every, -1) == "holds"
    one = seen(lambda row: "refusal" if row.group == "0" else "unsafe")
    assert (one.low, one.high) == (-0.75, 0.0)  # as resampled by group


@pytest.mark.parametrize(
    ("sizes", "verdict"),
    [
        ((9, 9, 1, 2, 3, 4, 5, 6, 7, 8), "holds"),
        ((7, 9, 1, 2, 3, 4, 5, 6, 8, 10), "unclear"),
        ((1, 2, 3, 4, 5, 6, 7, 8, 9, 10), "does not hold"),
        ((9, 8, 1), "not testable"),
        ((9, 8), "not testable"),
    ],
)
def test_more_neurons_in_high_resource_languages_is_an_exact_test(sizes, verdict):
    config = parse_config("{model: {path: x}, data: {sources: [{source: sandbox}]}}")
    assert set(config.identify.high_resource) == {"en", "zh"}
    names = ["en", "zh", *(f"x{i}" for i in range(8))][: len(sizes)]
    sets = [
        SetFacts.model_construct(name=f"{n}/text", size=s)
        for n, s in zip(names, sizes, strict=True)
    ]
    sets.append(SetFacts.model_construct(name="all", size=999))
    claim = resourced(config, NeuronFacts.model_construct(sets=sets))
    assert claim.verdict == verdict
    assert ("p = " in claim.measured) == (len(sizes) > 2)

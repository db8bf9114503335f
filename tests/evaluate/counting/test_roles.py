"""The verdict follows from the readouts as documented, and says when they cannot tell."""

import pytest

from precise_shield.core.summary import Component
from precise_shield.evaluate.counting.roles import corrected, judged, verdicts

PLACES = [
    ("refusal", "prompt"), ("refusal", "context"), ("judging", "prompt"),
    ("continuation", "prompt"), ("continuation", "response"), ("copying", "prompt"),
    ("copying", "response"), ("apology", "prompt"), ("apology", "response"),
]  # fmt: skip


def made(fallen=(), unable=(), p_value=0.01):
    """Components in which those named `name@scope` fall and those named `name` are not measured."""
    return [
        Component(
            name=name,
            scope=scope,
            n=8,
            base=1.0,
            suppressed=0.0 if f"{name}@{scope}" in fallen else 1.0,
            random=[1.0],
            p_value=p_value if f"{name}@{scope}" in fallen else 0.6,
            able=name not in unable,
            note="never taught" if name in unable else "",
        )
        for name, scope in PLACES
    ]


DECIDES = ("refusal@prompt", "judging@prompt")
WRITES = ("continuation@response", "copying@response", "apology@response")
FIRST_WORD = ("refusal@prompt", "copying@prompt", "apology@prompt")


@pytest.mark.parametrize(
    ("fallen", "unable", "expected"),
    [
        (DECIDES, (), "deciding"),
        (WRITES, (), "writing"),
        ((*WRITES, *FIRST_WORD), (), "writing"),  # it writes the first word too
        ((*DECIDES, *WRITES), (), "both"),
        ((*DECIDES, "apology@prompt"), (), "both"),
        ((), (), "neither"),
        (("refusal@prompt",), (), "neither"),  # but the judgement stays
        (("refusal@prompt",), ("judging",), "deciding"),
        (FIRST_WORD, ("judging",), "neither"),
        ((*WRITES, *FIRST_WORD), ("judging",), "writing"),
        ((*WRITES, *FIRST_WORD, "refusal@context"), ("judging",), "both"),
        (("refusal@prompt",), ("judging", "copying", "apology"), "not testable"),
        (("refusal@prompt", "refusal@context"), ("judging", "copying", "apology"), "deciding"),
        (DECIDES, ("refusal",), "not testable"),
        (DECIDES, ("continuation", "copying", "apology"), "not testable"),
        (("continuation@response",), ("copying",), "neither"),  # one of two is not most
    ],
)
def test_the_verdict(fallen, unable, expected):
    verdict, reason = judged(made(fallen, unable))
    assert verdict == expected, reason
    assert reason


def test_what_falls_no_further_than_random_sets_or_rises_does_not_count():
    assert judged(made(DECIDES, p_value=0.051))[0] == "neither"
    trifle = [c.model_copy(update={"base": 1.0, "suppressed": 0.96}) for c in made(DECIDES)]
    assert judged(trifle)[0] == "neither"
    risen = [c.model_copy(update={"base": -1.0}) for c in made(DECIDES)]
    assert judged(risen)[0] == "neither"


def test_a_model_without_refusal_says_why():
    assert "never taught" in judged(made((), ("refusal",)))[1]
    assert judged([])[0] == "not testable"


def test_sets_are_corrected_for_each_other_readout_by_readout():
    many = [made(DECIDES, p_value=0.02), made(), made(WRITES, p_value=0.02)]
    rows = corrected(many)
    assert rows[0][0].p_holm == pytest.approx(0.06)  # 3 x 0.02
    assert rows[0][2].p_holm == pytest.approx(0.06)
    assert rows[1][0].p_holm == pytest.approx(1.0)
    assert corrected([made(DECIDES)])[0][0].p_holm == pytest.approx(0.01)
    found = verdicts([("a", 3, many[0]), ("b", 3, many[1]), ("c", 3, many[2])])
    assert [role.verdict for role in found] == ["neither"] * 3
    assert verdicts([("a", 3, many[0])])[0].verdict == "deciding"
    assert corrected([]) == []


def test_what_was_not_measured_has_no_corrected_p():
    (row,) = corrected([made(DECIDES, ("copying",))])
    assert {c.p_holm for c in row if c.name == "copying"} == {None}

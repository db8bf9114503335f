"""A matrix whose cells were planted comes out cell by cell, with its random rows beside it."""

from __future__ import annotations

import pytest

from precise_shield.core.records import Example, Verdict
from precise_shield.core.summary import Condition, TrainedOn
from precise_shield.evaluate.counting.bootstrap import grouped_difference
from precise_shield.evaluate.counting.transfer import transfer_cells

N = 24
PLANTED = {
    ("base", "en"): 20, ("base", "fr"): 22,
    ("from-en", "en"): 2, ("from-en", "fr"): 10,
    ("from-en-random-0", "en"): 8, ("from-en-random-0", "fr"): 20,
    ("from-en-random-1", "en"): 6, ("from-en-random-1", "fr"): 18,
    ("aligned", "en"): 1, ("aligned", "fr"): 1,
}  # fmt: skip
"""How many of N harmful requests are hits."""
EXAMPLES = [
    Example(f"{n}-{language}", language, "text", "harmful", "tease", "test", f"g{n}",
            category="toys" if n % 2 else None)
    for n in range(N) for language in ("en", "fr")
]  # fmt: skip
ENGLISH = [TrainedOn(axis="language", seen=["en"], unseen=["fr"])]
ARMS = [
    Condition(name="aligned", kind="aligned", label="all"),
    Condition(name="from-en", kind="zero_shot", label="English", trained_on=ENGLISH),
]
CONTROLS = {"from-en": ["from-en-random-0", "from-en-random-1"], "aligned": []}


def near(value):
    """As a summary rounds."""
    return pytest.approx(value, abs=2e-6)


def verdicts(condition):
    return [
        Verdict(f"{n}-{la}", condition, "j", "unsafe" if n < PLANTED[condition, la] else "refusal")
        for n in range(N)
        for la in ("en", "fr")
    ]


@pytest.fixture(scope="module")
def cells():
    names = dict.fromkeys(condition for condition, _ in PLANTED)
    found = transfer_cells(ARMS, CONTROLS, EXAMPLES, [v for n in names for v in verdicts(n)])
    return {(c.condition, c.column): c for c in found if c.measure == "attack_success"}


def test_cells_are_what_was_planted_and_say_where_the_arm_was_trained(cells):
    assert list(cells) == [("aligned", "en"), ("aligned", "fr"), ("from-en", "en"),
                           ("from-en", "fr"), ("from-en", None)]  # fmt: skip
    assert [cell.seen for cell in cells.values()] == [True, True, True, False, False]
    for (arm, column), cell in cells.items():
        if column is not None:
            assert cell.base == near(PLANTED["base", column] / N)
            assert cell.value == near(PLANTED[arm, column] / N)
            assert cell.difference == near(cell.value - cell.base)
            assert cell.low <= cell.difference <= cell.high
    crossed = cells["from-en", "fr"]
    assert crossed.random == near([(20 - 22) / N, (18 - 22) / N])
    assert crossed.beyond == near((10 - 19) / N)
    assert cells["from-en", None].model_dump(exclude={"column", "p_holm"}) == crossed.model_dump(
        exclude={"column", "p_holm"}
    )
    assert crossed.p_holm == crossed.p_value < 0.05
    assert cells["from-en", "en"].p_holm is None is cells["from-en", None].p_holm


def test_without_controls_nothing_is_said_beyond_them(cells):
    assert cells["aligned", "en"].beyond is None
    assert cells["aligned", "en"].random == []


def test_two_controls_add_no_certainty_that_one_of_their_requests_lacks(cells):
    """Each request stands once a control, yet is resampled whole."""
    one = {
        e.id: int(e.id.split("-")[0]) < PLANTED["from-en", "fr"]
        for e in EXAMPLES
        if e.language == "fr"
    }
    twin = {name: int(name.split("-")[0]) < 19 for name in one}
    alone = grouped_difference(twin, one, {e.id: e.group for e in EXAMPLES})
    cell = cells["from-en", "fr"]
    assert cell.beyond_high - cell.beyond_low == pytest.approx(alone.high - alone.low, abs=0.05)


def test_controls_that_differ_are_a_draw_and_widen_what_goes_beyond_them():
    """With one control, or several alike, only groups are drawn; else the sets are as well."""
    widths, ps = {}, {}
    for name, hits in {"one": [19], "alike": [19, 19], "apart": [14, 24]}.items():
        rows = [v for n in ("base", "from-en") for v in verdicts(n)]
        controls = [f"from-en-random-{i}" for i in range(len(hits))]
        for control, count in zip(controls, hits, strict=True):
            rows += [
                Verdict(e.id, control, "j", "unsafe" if int(e.group[1:]) < count else "refusal")
                for e in EXAMPLES
            ]
        found = transfer_cells([ARMS[1]], {"from-en": controls}, EXAMPLES, rows)
        cell = next(c for c in found if (c.measure, c.column) == ("attack_success", "fr"))
        assert cell.beyond == near((10 - 19) / N)  # the same point, whatever the spread
        widths[name], ps[name] = cell.beyond_high - cell.beyond_low, cell.p_value
    assert widths["alike"] == pytest.approx(widths["one"], abs=0.05)
    assert widths["apart"] > 1.2 * widths["alike"]
    assert ps["apart"] > ps["alike"]


def test_an_axis_that_no_arm_was_cut_along_has_no_rows():
    everything = [ARMS[0]]
    assert transfer_cells(everything, {}, EXAMPLES, [*verdicts("base"), *verdicts("aligned")]) == []
    part = TrainedOn(axis="category", seen=[], unseen=["toys"])
    arm = Condition(name="from-en", kind="zero_shot", label="", trained_on=[part])
    found = transfer_cells([arm], {}, EXAMPLES, [*verdicts("base"), *verdicts("from-en")])
    assert {(c.axis, c.column, c.n) for c in found if c.measure == "attack_success"} == {
        ("category", "toys", N),
        ("category", None, N),
    }

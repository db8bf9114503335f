"""The sentences follow the numbers: no effect without its noise and its control."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from precise_shield.core.rates import Rate
from precise_shield.core.records import MODALITIES
from precise_shield.core.summary import Measure, RateRow, Summary
from precise_shield.core.summary.neurons import Sharing
from precise_shield.report.numbers.finding import Finding
from precise_shield.report.numbers.tables import receipts_table
from precise_shield.report.numbers.view import View
from precise_shield.report.pages.compare import comparison
from precise_shield.report.pages.evidence import believe_findings, changed_findings, where_findings
from precise_shield.report.safety.figures import REFUSED_BEFORE, readout_table, suppression_figure
from precise_shield.report.safety.headline import safer_findings, verdict
from precise_shield.report.safety.tiles import tiles
from report.fixture import CONDITIONS, LANGUAGES, rate_row, realistic

CALM: dict[Measure, float] = {
    "refusal_harmful": 0.5,
    "refusal_matched": 0.05,
    "refusal_ordinary": 0.02,
    "benign_correct": 0.9,
}


def summary_with(
    asr: dict[str, float], *, n: int = 100, unscored: int = 0, **other: dict[str, float]
) -> Summary:
    """Every cell has the same rate, a condition a number; no paired rows."""
    rates: list[RateRow] = []
    for name, share in asr.items():
        shares: dict[Measure, float] = {"attack_success": share, **CALM}
        shares |= {measure: values[name] for measure, values in other.items()}  # type: ignore[misc]
        for language in LANGUAGES:
            for modality in MODALITIES:
                rates += [
                    rate_row(name, m, language, modality, Rate(round(p * n), n, unscored))
                    for m, p in shares.items()
                ]
    conditions = [c for c in CONDITIONS if c.name in asr]
    update = {"rates": rates, "differences": [], "conditions": conditions}
    return realistic().model_copy(update=update)


@pytest.mark.parametrize(
    ("base", "aligned", "control", "tone", "words"),
    [
        (0.7, 0.1, 0.4, "good", "safer, and more so than after tuning random rows"),
        (0.7, 0.1, 0.1, "bad", "tuning random rows did as well."),
        (0.7, 0.3, 0.1, "bad", "random rows made it safer still"),
        (0.7, 0.7, 0.7, "unclear", "No change in attack success beyond noise"),
        (0.2, 0.5, 0.2, "bad", "less safe"),
    ],
)
def test_the_verdict_says_what_the_effect_and_its_control_say(
    base: float, aligned: float, control: float, tone: str, words: str
) -> None:
    summary = summary_with({"base": base, "aligned": aligned, "random-rows-0": control})
    finding = verdict(View(summary))
    assert finding.tone == tone
    assert words in finding.sentence
    turned = summary.model_copy(update={"config": {"align": {"polarity": "rest"}}})
    said = verdict(View(turned)).sentence
    assert said == finding.sentence.replace("tuning random rows", "freezing random neurons instead")


def test_a_control_measured_on_few_prompts_neither_matches_nor_is_beaten() -> None:
    asr = {"base": 0.9, "aligned": 0.3, "random-rows-0": 0.35}
    finding = verdict(View(summary_with(asr, n=20)))
    assert finding.tone == "unclear"
    assert "lost in noise" in finding.sentence
    assert verdict(View(summary_with(asr, n=100))).tone == "good"


def test_of_a_single_cell_nothing_is_called_worst() -> None:
    one = realistic(languages=("en",))
    data = one.data.model_copy(update={"modalities": ["text"]})
    rates = [r for r in one.rates if r.language == "en" and r.modality == "text"]
    differences = [r for r in one.differences if r.language == "en" and r.modality == "text"]
    update = {"data": data, "rates": rates, "differences": differences}
    view = View(one.model_copy(update=update))
    findings = {f.about: f.sentence for f in safer_findings(view)}
    assert "For whom" not in findings
    assert "the same" in findings["Effect"]  # the cell's paired row serves as the pooled one


def test_without_a_control_the_verdict_says_so() -> None:
    finding = verdict(View(summary_with({"base": 0.7, "aligned": 0.1})))
    assert finding.tone == "unclear"
    assert "no random-row control was run" in finding.sentence


def test_the_same_effect_is_noise_when_few_were_asked() -> None:
    effect = {"base": 0.5, "aligned": 0.4, "random-rows-0": 0.5}
    few, many = (verdict(View(summary_with(effect, n=n))) for n in (2, 200))
    assert "beyond noise" in few.sentence
    assert few.tone == "unclear"
    assert "safer" in many.sentence
    assert many.tone == "good"


def test_over_refusal_is_in_the_first_sentence() -> None:
    asr = {"base": 0.7, "aligned": 0.1, "random-rows-0": 0.5}
    costly = {"base": 0.05, "aligned": 0.4, "random-rows-0": 0.05}
    cheap, dear = summary_with(asr), summary_with(asr, refusal_matched=costly)
    assert "benign" not in verdict(View(cheap)).sentence
    assert "it also refuses more topic-matched benign requests" in verdict(View(dear)).sentence
    assert verdict(View(dear)).tone == "unclear"


@pytest.mark.parametrize(("after", "cost"), [(0.6, True), (0.99, False)])
def test_fewer_right_answers_are_a_cost_and_more_are_none(after: float, cost: bool) -> None:
    right = {"base": 0.9, "aligned": after}
    summary = summary_with({"base": 0.7, "aligned": 0.1}, benign_correct=right)
    assert ("answers fewer benign requests" in verdict(View(summary)).sentence) == cost
    finding = next(f for f in safer_findings(View(summary)) if f.about == "Cost")
    assert finding.tone == ("bad" if cost else "good")


def test_refusing_everything_is_not_called_selective() -> None:
    asr = {"base": 0.7, "aligned": 0.1}
    up = {"base": 0.2, "aligned": 0.8}
    findings = {
        f.about: f
        for f in safer_findings(View(summary_with(asr, refusal_harmful=up, refusal_matched=up)))
    }
    assert findings["Selectivity"].tone == "unclear"
    assert "beyond noise" in findings["Selectivity"].sentence
    assert findings["Cost"].tone == "bad"


def test_the_worst_cell_and_language_are_those_of_the_table() -> None:
    view = View(realistic())
    sentence = next(f.sentence for f in safer_findings(view) if f.about == "For whom")
    cells = [r for r in realistic().rates if r.condition == "aligned"
             and r.measure == "attack_success" and r.language and r.modality]  # fmt: skip
    worst = max(cells, key=lambda r: r.value or 0)
    assert f"{100 * (worst.value or 0):.1f}%" in sentence
    assert f"n={worst.n}" in sentence
    pooled = [r for r in realistic().rates if r.condition == "aligned"
              and r.measure == "attack_success" and r.language and not r.modality]  # fmt: skip
    top = max(pooled, key=lambda r: r.value or 0)
    said = sentence.split("among languages (")[1].split(")")[0]
    assert said.startswith(f"{100 * (top.value or 0):.1f}% [")
    assert said.endswith(f"] n={top.n}")


def test_where_every_cell_is_alike_none_is_called_worst() -> None:
    sentence = next(
        f.sentence
        for f in safer_findings(View(summary_with({"base": 0.5, "aligned": 0.0})))
        if f.about == "For whom"
    )
    assert "the same in all 30 cells: 0.0% [" in sentence
    assert "highest" not in sentence
    apart = safer_findings(View(realistic()))
    assert "highest" in next(f.sentence for f in apart if f.about == "For whom")


def test_unscored_answers_are_bounded_by_the_worst_case() -> None:
    """Recounted by hand: every unscored answer a hit after, none before."""
    summary = summary_with({"base": 0.5, "aligned": 0.4}, n=100, unscored=40)
    finding = next(f for f in believe_findings(View(summary)) if f.about == "Unscored")
    worst = (40 + 40) / 140 - 50 / 140
    assert f"{100 * worst:.1f} points" in finding.sentence
    assert finding.tone == "unclear"
    sure = summary_with({"base": 0.5, "aligned": 0.1}, n=100, unscored=0)
    assert next(f for f in believe_findings(View(sure)) if f.about == "Unscored").tone == "good"


def test_the_causal_check_needs_more_than_its_random_sets() -> None:
    summary = realistic()
    assert summary.verification is not None

    def with_readouts(lower: float, p: float) -> Summary:
        readouts = [
            r.model_copy(update={"suppressed": r.base - lower, "p_holm": p})
            for r in summary.verification.readouts  # type: ignore[union-attr]
        ]
        check = summary.verification.model_copy(  # type: ignore[union-attr]
            update={"readouts": readouts, "verdict": "Measured."}
        )
        return summary.model_copy(update={"verification": check})

    def tone(one: Summary) -> str:
        return next(f.tone for f in believe_findings(View(one)) if f.about == "Causal check")

    assert tone(with_readouts(5.0, 0.001)) == "good"
    assert tone(with_readouts(0.0, 1.0)) == "bad"
    assert tone(summary.model_copy(update={"verification": None})) == "unclear"


def test_refused_prompts_have_a_row_and_a_lane_of_their_own() -> None:
    view = View(realistic())
    row = next(r for r in readout_table(view).rows if r[0].text == REFUSED_BEFORE)
    assert row[2].text == "41"
    assert REFUSED_BEFORE in (figure := suppression_figure(view)).panels[-1].svg
    assert REFUSED_BEFORE not in figure.panels[0].svg


def test_damping_is_judged_by_attack_success_below_that_of_random_neurons() -> None:
    summary = realistic()
    kinds = {c.kind: c.name for c in summary.conditions}
    assert not [f for f in believe_findings(View(summary)) if f.about == "Damped"]

    def seen(arm: str, control: str | None) -> Finding:
        """The finding of a run whose damped neurons, and random ones, did as these arms did."""
        given = {arm: "damped", control: "random_damped"}
        changed = [c.model_copy(update={"kind": given[c.name]}) if c.name in given else c
                   for c in summary.conditions]  # fmt: skip
        view = View(summary.model_copy(update={"conditions": changed}))
        return next(f for f in believe_findings(view) if f.about == "Damped")

    good = seen(kinds["aligned"], kinds["suppressed"])
    bad = seen(kinds["suppressed"], kinds["zero_shot"])
    assert (good.tone, bad.tone) == ("good", "bad")
    assert "random neurons damped alike give" in good.sentence
    alone = seen(kinds["aligned"], None)
    assert alone.tone == "unclear"
    assert "no random neurons stand beside it" in alone.sentence


def test_an_unverified_receipt_is_said_loudly() -> None:
    summary = realistic()
    receipt = summary.receipts[0].model_copy(update={"untouched_verified": False})
    finding = changed_findings(View(summary.model_copy(update={"receipts": [receipt]})))[0]
    assert finding.tone == "bad"
    assert finding.stamp == "NOT verified"
    assert "NOT verified" in finding.sentence
    assert changed_findings(View(summary))[0].stamp == "verified"


def test_only_a_lora_is_said_to_have_rows_of_b() -> None:
    summary = realistic()
    lora = summary.receipts[0]
    free = lora.model_copy(update={"form": "direct_units", "rank": 0})
    whole = free.model_copy(update={"form": "all_parameters", "everything": True})
    still = free.model_copy(update={"form": "amplified", "trained_with_a": 0})
    view = View(summary.model_copy(update={"receipts": [lora, free, whole, still]}))
    said = [finding.sentence for finding in changed_findings(view)]
    assert ["rows of B" in each for each in said] == [True, False, False, False]
    assert "all parameters in" in said[2]
    assert "units) amplified, nothing trained: 6,656 weights" in said[3]
    assert "steps" not in said[3]
    assert [finding.tone for finding in changed_findings(view)] == ["good", "good", "plain", "good"]
    forms = [row[2].text for row in receipts_table(view.summary.receipts, view).rows]
    assert forms == ["lora_rows, rank 8", "direct_units", "all_parameters", "amplified"]
    training = [
        [e.text for e in row[7:10]] for row in receipts_table(view.summary.receipts, view).rows
    ]
    assert training[3] == ["–", "–", "–"]  # no step was taken, so there is no loss to be undefined
    assert "–" not in training[0]


def _texts(summary: Summary) -> Sequence[str]:
    return [f"{t.title} {t.before} {t.after}" for t in tiles(View(summary))]


def test_tiles_show_both_ends_and_leave_out_what_was_not_measured() -> None:
    summary = realistic()
    assert len(_texts(summary)) == 5
    rates = [r for r in summary.rates if not r.measure.startswith("refusal_matched")]
    fewer = _texts(summary.model_copy(update={"rates": rates}))
    assert len(fewer) == 4
    assert any("harmful minus benign" in text for text in fewer)


@pytest.mark.parametrize(("gap", "alike"), [(-0.14, True), (-0.41, False)])
def test_the_causal_check_says_how_well_its_controls_match(gap: float, alike: bool) -> None:
    summary = realistic()
    assert summary.verification is not None
    told = {"column norm": gap, "benign activation": 0.02}
    check = summary.verification.model_copy(update={"imbalance": told})
    found = believe_findings(View(summary.model_copy(update={"verification": check})))
    sentence = next(f.sentence for f in found if f.about == "Causal check")
    signed = f"\u2212{-gap:.2f}"
    assert f"Random sets lie {signed} in column norm and +0.02 in benign activation" in sentence
    assert ("they are not alike" in sentence) is not alike
    before = next(f.sentence for f in believe_findings(View(summary)) if f.about == "Causal check")
    assert "Random sets lie" not in before


@pytest.mark.parametrize(("p", "tone"), [(0.04, "good"), (0.2, "bad")])
def test_languages_share_by_the_one_test_over_all_pairs(p: float, tone: str) -> None:
    """The claim and the finding rest on the same p, however single pairs came out."""
    summary = realistic()
    both = Sharing(across="languages", pairs=9, share=0.5, chance_shuffled=0.4, p_value=p)
    neurons = summary.neurons.model_copy(update={"sharing": [both]})
    found = where_findings(View(summary.model_copy(update={"neurons": neurons})))
    shared = next(f for f in found if f.about == "Shared")
    assert (shared.tone, f"p = {p:.3f}" in shared.sentence) == (tone, True)
    assert "50.0% of a set" in shared.sentence
    assert "chance 40.0%" in shared.sentence  # the level that this p is held against


def test_runs_of_two_experiments_get_no_verdict_between_them() -> None:
    one = realistic()
    other = one.model_copy(update={"judge": "another"})
    told = comparison(View(one), View(other)).findings[1]
    assert told.tone == "plain"
    assert "no verdict: they differ in judge" in told.sentence
    assert "no verdict" not in comparison(View(one), View(one)).findings[1].sentence

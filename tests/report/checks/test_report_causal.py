"""The detailed causal check is drawn and tabled where it was measured, and only there."""

from __future__ import annotations

from math import exp

import pytest

from precise_shield.core.records import MODALITIES
from precise_shield.core.summary import (
    Causal,
    Component,
    DosePoint,
    MatrixCell,
    PanelFacts,
    PanelReading,
    Rival,
    Role,
    Summary,
)
from precise_shield.report.checks.causal import (
    causal_figures,
    causal_tables,
    dose_findings,
    excess,
    matrix_findings,
)
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import number
from precise_shield.report.pages.page import render_html, render_markdown
from report.fixture import BREAKOUT, realistic


def reading(drop: float, hurt: float = 0.0) -> PanelReading:
    return PanelReading(
        log_odds=-1.5 - drop, refused=2.5 - drop, complied=-5.5 - drop / 2, kl=hurt,
        perplexity=1.1 * exp(hurt),
    )  # fmt: skip


def component(name, scope, base, suppressed, p_value, able=True, note="", share=None) -> Component:
    random = [base + 0.02 * k - 0.1 for k in range(9)] if able else []
    return Component(
        name=name, scope=scope, n=16, base=base, suppressed=suppressed if able else None,
        random=random, p_value=p_value if able else None, p_holm=p_value if able else None,
        share=share, able=able, note=note,
    )  # fmt: skip


def role(name: str, verdict: str) -> Role:
    return Role(
        of=name,
        neurons=937,
        verdict=verdict,
        reason="at the prompt the refusal log-odds fall beyond random sets",
        components=[
            component("refusal", "prompt", 2.9, 0.4, 0.01),
            component("refusal", "context", 2.9, 2.7, 0.31),
            component("judging", "prompt", 4.7, 1.1, 0.01, share=(1.0, 0.6)),
            component("continuation", "prompt", -0.5, -0.55, 0.4, share=(0.8, 0.8)),
            component("continuation", "response", -0.5, -0.6, 0.4, share=(0.8, 0.8)),
            component("copying", "response", -0.2, -0.25, 0.4, share=(0.9, 0.9)),
            component("apology", "response", -9.0, None, None, able=False, note="11% below 30%"),
        ],
    )


def causal(view_languages: list[str], name: str = "MS:en") -> Causal:
    doses = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
    cells = [
        MatrixCell(
            of=of, neurons=100, language=lang, modality=modality, n=12, base=1.0,
            suppressed=1.0 - (2.0 if of.endswith(lang) else 0.3 * k),
            random=[0.9, 1.0, 0.95], p_value=0.01 if of.endswith(lang) else 0.5, p_holm=1.0,
        )
        for of in (name, "MS:sw", "SS:sw", "MS:sw - SS:sw")
        for k, lang in enumerate(view_languages)
        for modality in MODALITIES
    ]  # fmt: skip
    return Causal(
        panel=PanelFacts(harmful=24, refused=12, benign=24, untouched=reading(0)),
        dose=[
            DosePoint(
                factor=f,
                chosen=reading(2.0 * (1 - f), 0.02 * abs(1 - f)),
                random=[reading(0.1 * k * (1 - f), 0.01 * abs(1 - f)) for k in range(1, 6)],
            )
            for f in doses
        ],
        rivals=[
            Rival(kind="chosen", label="MLS", neurons=937, readings=[reading(2.0, 0.07)]),
            Rival(kind="random", label="random, like norm", neurons=937, p_value=0.05,
                  readings=[reading(0.1 * k, 0.01) for k in range(19)]),
            Rival(kind="equal_importance", label="of equal importance", neurons=937, p_value=0.1,
                  readings=[reading(0.12 * k, 0.02) for k in range(19)]),
            Rival(kind="remainder", label="not chosen", neurons=196,
                  readings=[reading(0.2, 0.0)]),
        ],
        matrix=cells,
        roles=[role("chosen", "deciding"), role(name, "writing")],
    )  # fmt: skip


def with_causal(name: str = "MS:en") -> Summary:
    summary = realistic()
    found = causal(summary.data.languages, name)
    check = summary.verification.model_copy(update={"causal": found})
    return summary.model_copy(update={"verification": check})


def test_a_summary_without_the_parts_draws_none_of_them():
    plain = realistic()
    assert [figure for figure in causal_figures(View(plain)) if figure is not None] == []
    assert "Dose-response" not in render_html(plain)


def test_every_part_is_a_figure_with_the_table_that_says_the_same():
    summary = with_causal()
    figures = causal_figures(View(summary))
    assert [figure.name for figure in figures] == ["dose", "rivals", "matrix", "roles"]
    page, text = render_html(summary), render_markdown(summary)
    for figure in figures:
        assert f'id="{figure.name}"' in page
        assert figure.table.caption in text
    assert len(figures[2].panels) == 3
    assert len(figures[2].table.rows) == len(summary.verification.causal.matrix)


def test_the_numbers_are_those_of_the_summary():
    summary = with_causal()
    dose, rivals, matrix, roles = causal_tables(View(summary))
    assert [row[0].text for row in dose.rows] == ["0", "0.5", "1", "1.5", "2", "3"]
    assert dose.rows[2][5].text == "0"  # no drift at 1
    assert rivals.rows[0][3].order == pytest.approx(-3.5)
    cell = summary.verification.causal.matrix[0]
    assert matrix.rows[0][8].order == pytest.approx(excess(cell))
    assert excess(cell) == pytest.approx((0.9 + 1.0 + 0.95) / 3 - cell.suppressed)
    assert "11% below 30%" in {row[-1].text for row in roles.rows}


def test_a_verdict_is_a_finding_and_too_few_sets_are_said():
    page = render_html(with_causal())
    assert "chosen (937 neurons): deciding" in page
    assert "MS:en (937 neurons): writing" in page
    assert "no p can go below 1 with" in page  # 120 cells against 3 random sets


def test_foreign_set_names_are_text():
    page = render_html(with_causal(BREAKOUT))
    assert "<img src=x" not in page
    assert "<svg onload" not in page


def test_shared_neurons_are_set_against_what_is_left_of_a_language():
    """Every set here costs its own language 2 nats less 0.05 for its random sets."""
    summary = with_causal()
    cells = [c for c in summary.verification.causal.matrix if c.of in ("SS:sw", "MS:sw - SS:sw")]
    (finding,) = matrix_findings(View(summary))
    others = sum(excess(c) for c in cells if c.of == "SS:sw") / (len(cells) / 2)
    assert f"and {number(others)} elsewhere" in finding.sentence  # nobody reads Swahili here
    own = [c.model_copy(update={"language": "sw"}) for c in cells[:1]]
    causal = summary.verification.causal.model_copy(update={"matrix": [*cells, *own]})
    check = summary.verification.model_copy(update={"causal": causal})
    (finding,) = matrix_findings(View(summary.model_copy(update={"verification": check})))
    assert f"{number(excess(own[0]))} nats in their language" in finding.sentence
    assert matrix_findings(View(realistic())) == []


def test_amplifying_is_set_against_random_sets():
    (finding,) = dose_findings(View(with_causal()))
    assert "Times 2" in finding.sentence
    assert "+1.00 nats, random sets' by 0.05 to 0.25" in finding.sentence  # half the drop of -2
    assert finding.tone == "unclear"  # five sets are no test
    assert dose_findings(View(realistic())) == []

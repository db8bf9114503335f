"""What explains the sets is drawn beside its chance level, with the same numbers in a table."""

from __future__ import annotations

import re
from itertools import combinations

from precise_shield.core.summary import Summary
from precise_shield.report.pages.page import figures_of, render_html, render_markdown
from report.explained_fixture import explained_summary, influence_facts
from report.fixture import realistic

NAME = re.compile(r'<text x="([\d.]+)" y="([\d.]+)" class="t-tiny t-soft"')


def figure(name: str, summary: Summary | None = None):
    found = figures_of(summary or explained_summary()).all
    return next((each for each in found if each.name == name), None)


def test_depth_has_the_shuffled_level_beside_both_groups() -> None:
    it = figure("depth")
    assert it is not None
    assert [kind for kind, _ in it.legend] == ["aligned", "zero", "random"]
    assert "labels shuffled" in it.panels[0].svg
    assert it.panels[-1].title.startswith("chosen set")
    assert it.table.columns[-1] == "labels shuffled"
    assert "45 relabellings" in it.table.note
    plain = figure("depth", realistic())  # a run without a profile still has the plain figure
    assert plain is not None
    assert "labels shuffled" not in plain.panels[0].svg


def test_private_and_shared_parts_stand_beside_shuffled_labels() -> None:
    it = figure("private")
    assert it is not None
    assert len(it.panels) == 3
    assert len(it.table.rows) == 30
    assert "private, shuffled: 60.0%" in it.panels[0].svg
    assert "+40 points" in it.table.rows[0][-1].text
    assert figure("private", realistic()) is None


def test_each_language_is_a_point_and_r_has_its_exact_p() -> None:
    it = figure("counts")
    assert it is not None
    tests = {t.modality: t for t in explained_summary().explained.counts if t.among == "all"}
    assert f"p = {tests['text'].p_value:.3f}" in it.panels[0].title
    assert len(tests["text"].languages) == 10
    for language in tests["text"].languages:
        assert f">{language}</text>" in it.panels[0].svg
    for panel in it.panels:  # names stand over no other name
        at = [(float(x), float(y)) for x, y in NAME.findall(panel.svg)]
        assert len(at) > 5
        assert all(abs(a - c) > 10 or abs(b - d) > 8 for (a, b), (c, d) in combinations(at, 2))
    assert "3,628,800 (all)" in {row[8].text for row in it.table.rows}
    assert figure("counts", realistic()) is None


def test_probes_are_drawn_before_and_after_beside_shuffled_labels() -> None:
    it = figure("headroom")
    assert it is not None
    assert [panel.title for panel in it.panels] == [
        "harmful against topic-matched benign",
        "harmful against topic-matched benign, by cell",
        "harmful against other benign",
        "harmful against other benign, by cell",
    ]
    assert "k-aligned thick" in it.panels[0].svg
    assert "k-random thick" in it.panels[0].svg
    found = explained_summary().explained.headroom
    assert found is not None
    doubtful = [r for r in found.rows if r.condition == "base" and r.verdict != "apart"]
    assert doubtful
    assert sum(panel.svg.count(" ?</text>") for panel in it.panels) == len(doubtful)
    assert len(it.table.rows) == len(found.rows)
    assert found.sentence in render_markdown(explained_summary())
    assert figure("headroom", realistic()) is None


def test_influence_has_random_neurons_beside_it_on_one_scale() -> None:
    it = figure("influence")
    assert it is not None
    assert [panel.title for panel in it.panels] == [
        "safety neurons silenced",
        "random neurons silenced, mean of 3",
    ]
    assert "risk10" in it.panels[0].svg  # the darkest class, and only where the value is highest
    assert "risk10" not in it.panels[1].svg
    assert it.panels[0].svg.count("<rect") == 28  # pairs of eight layers, upwards only
    assert len(it.table.rows) == 28
    assert figure("influence", realistic()) is None


def test_many_layers_are_put_together_in_bands() -> None:
    summary = explained_summary()
    more = summary.explained.model_copy(update={"influence": influence_facts(36)})
    it = figure("influence", summary.model_copy(update={"explained": more}))
    assert it is not None
    assert "0–2" in it.panels[0].svg
    assert it.panels[0].svg.count("<rect") == 78  # twelve bands: 66 pairs, and 12 with themselves


def test_what_neurons_write_is_escaped_and_prompts_are_ids() -> None:
    page = render_html(explained_summary())
    at = page.index("What single neurons write")
    assert "&lt;script&gt;alert" in page[at:]
    assert "<script>alert" not in page
    assert "swap+shield:en" in page
    assert "What single neurons write" not in render_html(realistic())


def test_the_page_has_them_all() -> None:
    page = render_html(explained_summary())
    for name in ("depth", "private", "counts", "headroom", "influence"):
        assert f'<figure id="{name}">' in page

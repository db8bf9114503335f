"""The figures say the same as the numbers, in colours and sizes that can be read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from math import nan

import pytest
from markupsafe import Markup

from precise_shield.report.drawing.charts import PLOT, Lane, Mark, Square, heat_map, marks_plot
from precise_shield.report.drawing.palette import (
    INKS,
    RAMPS,
    STEPS,
    contrast,
    luminance,
    ramp,
    text_on,
)
from precise_shield.report.drawing.standalone import standalone
from precise_shield.report.drawing.svg import (
    WIDTH,
    fitted,
    label_width,
    linear,
    logarithmic,
    steps,
    tag,
)
from precise_shield.report.neurons.overlap import cell_overlaps, overlap_table, place_of
from precise_shield.report.numbers.view import View
from precise_shield.report.pages.page import figures_of
from precise_shield.report.safety.figures import forest_figure, measures_figure
from report.fixture import BREAKOUT, LANGUAGES, hostile, realistic, realistic_figures

THEMES = ["light", "dark"]
SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: Markup) -> ET.Element:
    return ET.fromstring(svg)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", sorted(RAMPS))
def test_a_ramp_runs_one_way_in_lightness_and_its_text_can_be_read(name: str, theme: str) -> None:
    colours = ramp(name, theme)
    assert len(set(colours)) == STEPS
    light = [luminance(colour) for colour in colours]
    assert light == sorted(light, reverse=theme == "light")
    assert all(contrast(text_on(colour), colour) >= 4.5 for colour in colours)


@pytest.mark.parametrize("theme", THEMES)
def test_every_ink_reads_on_every_surface(theme: str) -> None:
    inks = INKS[theme]
    words = [
        "ink",
        "soft",
        "link",
        "base",
        "aligned",
        "random",
        "suppressed",
        "zero",
        "good",
        "bad",
    ]
    for surface in ("paper", "card", "empty"):
        for word in words:
            assert contrast(inks[word], inks[surface]) >= 4.5, (theme, word, surface)


def test_contrast_is_the_one_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)  # the known AA grey


def test_the_heat_map_shows_the_numbers_of_the_table() -> None:
    summary = realistic()
    view = View(summary)
    figure = realistic_figures().safer[0]
    for panel, condition in zip(figure.panels, ["base", "aligned", "random-rows-0"], strict=True):
        tips = {e.text or "" for e in parsed(panel.svg).iter("title")}
        groups = parsed(panel.svg).findall(".//g")
        assert len(groups) == (len(LANGUAGES) + 3) * 4
        estimate = view.rate(condition, "attack_success", "ar", "image_dominant")
        assert f"Arabic, image-dominant: {estimate}" in tips
        cell = next(g for g in groups if f"Arabic, image-dominant: {estimate}" == g[0].text)
        assert cell.findall("text")[0].text == f"{100 * estimate.value:.0f}"  # type: ignore[union-attr]
        step = round(estimate.value * (STEPS - 1))  # type: ignore[union-attr]
        assert cell.get("class") == f"tip cell risk{step}"


def test_long_names_in_a_heat_map_are_shown_whole_and_shift_its_squares() -> None:
    cells = [[Square(0.5, "50"), Square(0.5, "50")]]
    short, long = (
        parsed(heat_map("m", [name], ["text", "contrastive-difference"], cells, "risk"))
        for name in ("German", "all but image-dominant")
    )
    words = {e.text for e in long.iter("text")}
    assert {"all but image-dominant", "contrastive-", "difference"} <= words
    assert not any("…" in (word or "") for word in words)
    starts = [min(float(e.get("x", "nan")) for e in svg.iter("rect")) for svg in (short, long)]
    assert starts[0] < starts[1]
    assert max(float(e.get("x", "nan")) for e in long.iter("rect")) < float(long.get("width", "0"))


def test_a_mark_stands_where_its_value_is() -> None:
    axis = linear([-0.5, 0.25], *PLOT, percent=True)
    lane = Lane("one", (Mark("base", -0.25, -0.5, 0.25),))
    svg = parsed(marks_plot("a plot", [lane], axis))
    start, end = PLOT
    expected = start + (-0.25 - axis.low) / (axis.high - axis.low) * (end - start)
    circle = svg.find(".//circle")
    assert circle is not None
    assert float(circle.get("cx", "nan")) == pytest.approx(expected, abs=0.06)
    bar = next(e for e in svg.iter("line") if "ci" in e.get("class", ""))
    assert float(bar.get("x1", "nan")) < expected < float(bar.get("x2", "nan"))


def test_undefined_marks_are_left_out_and_undefined_squares_are_void() -> None:
    axis = linear([0.0, 1.0], *PLOT)
    lane = Lane("one", (Mark("base", nan, nan, nan),), "undef.")
    assert "circle" not in marks_plot("a plot", [lane], axis)
    assert "undef." in marks_plot("a plot", [lane], axis)
    assert "cell void" in heat_map("m", ["r"], ["c"], [[Square(nan, "undef.")]], "risk")


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (linear([0.0, 0.1], 0.0, 100.0), 5), (linear([-0.9, 0.1], 0.0, 100.0), 5),
        (linear([nan], 0.0, 100.0), 5), (linear([3.0, 3.0], 0.0, 100.0, zero=False), 5),
        (logarithmic([416.0, 4_812_544.0], 0.0, 100.0), 6), (logarithmic([0.0], 0.0, 100.0), 2),
        (steps(7, 0.0, 100.0), 8), (steps(79, 0.0, 100.0), 8), (steps(0, 0.0, 100.0), 1),
    ],
)  # fmt: skip
def test_axes_have_round_ordered_ticks_that_cover_the_values(axis: object, ticks: int) -> None:
    names = [axis.name(t) for t in axis.ticks]  # type: ignore[attr-defined]
    assert len(names) == len(set(names))
    assert abs(len(names) - ticks) <= 3
    places = [axis(t) for t in axis.ticks]  # type: ignore[attr-defined]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)


def test_no_label_reaches_into_the_next_cell() -> None:
    for figure in realistic_figures().all:
        for panel in figure.panels:
            svg = parsed(panel.svg)
            width = float(svg.get("width", "nan"))
            assert width <= WIDTH + 1
            cells = {e for g in svg.iter("g") if "cell" in g.get("class", "") for e in g}
            inherited = {e: "middle" if e in cells else "start" for e in svg.iter("text")}
            rows: dict[str, list[tuple[float, float]]] = {}
            for e in svg.iter("text"):
                size = 0.86 if "t-small" in e.get("class", "") else 1.0
                size = 0.8 if "t-tiny" in e.get("class", "") else size
                half = size * label_width(e.text or "") / 2
                x, anchor = float(e.get("x", "nan")), e.get("text-anchor", inherited[e])
                middle = {"start": x + half, "middle": x, "end": x - half}[anchor]
                assert middle - half >= -6, (figure.name, e.text)
                assert middle + half <= width + 12, (figure.name, e.text)
                rows.setdefault(e.get("y", ""), []).append((middle - half, middle + half))
            for spans in rows.values():
                for (_, left_end), (right_start, _) in pairwise(sorted(spans)):
                    assert left_end <= right_start + 6, (figure.name, panel.title)


def test_labels_are_cut_to_fit() -> None:
    assert fitted("Norwegian", 80) == "Norwegian"
    long = fitted("日本語日本語日本語", 60)
    assert long.endswith("…")
    assert label_width(long) <= 60


def test_svg_escapes_names_values_and_text() -> None:
    element = tag("text", '<b> & "', x=1.25, class_='a"b')
    assert str(element) == '<text x="1.2" class="a&#34;b">&lt;b&gt; &amp; &#34;</text>'


@pytest.mark.parametrize("text", [None, BREAKOUT, "\ud800\u202e\x00"])
def test_standalone_figures_are_well_formed_and_bring_their_own_style(text: str | None) -> None:
    figures = realistic_figures() if text is None else figures_of(hostile(text))
    for figure in figures.all:
        svg = standalone(figure)
        root = ET.fromstring(svg.encode("utf-8"))
        assert root.tag == f"{SVG}svg"
        assert len(root.findall(f"{SVG}svg")) == len(figure.panels)
        assert root.find(f"{SVG}style") is not None
        assert not root.findall(f".//{SVG}script")
        classes = {c for e in root.iter() for c in e.get("class", "").split()}
        styled = set(re.findall(r"\.([a-z][\w-]*)", root.find(f"{SVG}style").text or ""))  # type: ignore[union-attr]
        assert classes - {"tip", "figure", ""} <= styled


@pytest.mark.parametrize(("panels", "columns"), [(1, 1), (3, 3), (4, 2), (5, 3)])
def test_a_standalone_figure_says_how_to_read_it_inside_its_width(
    panels: int, columns: int
) -> None:
    whole = next(f for f in realistic_figures().all if len(f.lead) > 100)
    figure = replace(whole, panels=whole.panels[:1] * panels)
    root = ET.fromstring(standalone(figure).encode("utf-8"))
    words = [e for e in root.findall(f"{SVG}text") if "t-soft" in e.get("class", "")]
    assert " ".join(e.text or "" for e in words) == figure.lead
    width = float(root.get("width", "0")) - 24
    assert all(label_width(e.text or "") <= width for e in words)
    placed = root.findall(f"{SVG}svg")
    assert len({panel.get("x") for panel in placed}) == columns
    assert max(float(e.get("y", "0")) for e in words) + 20 < float(placed[0].get("y", "0"))


def test_an_axis_of_one_power_of_ten_has_marks_between() -> None:
    axis = logarithmic([1.0, 10.0], 0.0, 100.0)
    assert [axis.name(tick) for tick in axis.ticks] == ["1", "2", "5", "10"]


def test_forest_without_a_control_has_one_lane_and_several_controls_share_one() -> None:
    summary = realistic()
    alone = [c for c in summary.conditions if c.kind != "random_rows"]
    one = forest_figure(View(summary.model_copy(update={"conditions": alone})))
    assert one is not None
    assert len(one.legend) == 1
    control = summary.conditions[2]
    more = [*summary.conditions, control.model_copy(update={"name": "zero-shot"})]
    many = forest_figure(View(summary.model_copy(update={"conditions": more})))
    assert many is not None
    assert many.panels[0].svg.count("k-random faint") == 2 * (len(LANGUAGES) + 1)


def test_a_scoped_edit_has_a_lane_of_its_own_name() -> None:
    summary = realistic()
    aligned = next(c for c in summary.conditions if c.kind == "aligned")
    scopes = ("", "-prompt", "-context", "-first-decision", "-response")
    more = [
        aligned.model_copy(update={"name": f"{name}{scope}", "kind": kind})
        for name, kind in (("damped", "damped"), ("random-damped-0", "random_damped"))
        for scope in scopes
    ]
    rates = [r.model_copy(update={"condition": c.name})
             for r in summary.rates if r.condition == aligned.name for c in more]  # fmt: skip
    both = {"conditions": [*summary.conditions, *more], "rates": [*summary.rates, *rates]}
    figure = measures_figure(View(summary.model_copy(update=both)))
    drawn = figure.panels[0].svg
    names = ["damped", "damped input", "damped context", "damped 1st", "damped reply"]
    names += ["random down", "random input", "random context", "random 1st", "random reply"]
    assert all(drawn.count(f">{fitted(name, 78)}<") == 1 for name in names)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("en/text", ("en", "text")), ("ISN:en", ("en", "image_dominant")),
        ("TSN:zh", ("zh", "text_dominant")), ("MLS", None), ("en/nonsense", None), ("ISN:", None),
    ],
)  # fmt: skip
def test_set_names_are_read_as_the_schema_writes_them(
    name: str, place: tuple[str, str] | None
) -> None:
    assert place_of(name) == place


def test_overlap_pairs_beyond_the_limit_are_counted() -> None:
    summary = realistic()
    neurons = summary.neurons.model_copy(update={"overlaps": summary.neurons.overlaps * 2})
    table = overlap_table(View(summary.model_copy(update={"neurons": neurons})))
    assert len(table.rows) == 400
    assert table.note.startswith(f"{2 * len(summary.neurons.overlaps) - 400} more pairs")
    assert len(cell_overlaps(View(summary))) == len(summary.neurons.overlaps)

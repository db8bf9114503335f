"""The report as Markdown and in the terminal: same numbers, and foreign text stays text."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from precise_shield.report import render_markdown, summary_lines, summary_renderables
from precise_shield.report.numbers.view import View
from precise_shield.report.pages.markdown import plain
from precise_shield.report.pages.stages import causal_lines, neuron_lines, rate_lines
from precise_shield.report.safety.headline import verdict
from report.fixture import BIDI, BREAKOUT, LANGUAGES, LINK, SCRIPT, hostile, realistic


def table_widths(text: str) -> list[set[int]]:
    """Numbers of columns of each table's lines."""
    blocks = re.findall(r"(?:^\|.*\|$\n)+", text, re.MULTILINE)
    return [{len(re.split(r"(?<!\\)\|", row)) for row in block.splitlines()} for block in blocks]


def test_markdown_tables_are_rectangular_and_hold_every_cell() -> None:
    text = render_markdown(realistic())
    assert len(table_widths(text)) >= 8
    assert all(len(widths) == 1 for widths in table_widths(text))
    assert all(len(widths) == 1 for widths in table_widths(render_markdown(hostile("a | b"))))
    view = View(realistic())
    for language in LANGUAGES:
        assert str(view.rate("aligned", "attack_success", language, "text")) in text


@pytest.mark.parametrize("text", [SCRIPT, BREAKOUT, BIDI, LINK, "a\n\n# head\n| x | y |\n"])
def test_hostile_text_cannot_leave_its_place_in_markdown(text: str) -> None:
    calm, dirty = render_markdown(realistic()), render_markdown(hostile(text))
    bare = re.sub(r"&(amp|lt|gt|#47|#46);", "", dirty)
    assert not re.search(r"[<>]|https?:/|!\[[^\]]*\]\(|(?<!\\)\]\(", bare)
    heads = [line for line in calm.splitlines() if line.startswith("#")]
    assert len([line for line in dirty.splitlines() if line.startswith("#")]) == len(heads)
    assert not set("\u202e\x00\x1b") & set(dirty)
    assert plain(text) in dirty  # it is there, as text


def test_markup_signs_are_escaped_one_by_one() -> None:
    assert plain("*a* `b` _c_ | \\ # !") == "\\*a\\* \\`b\\` \\_c\\_ \\| \\\\ \\# \\!"
    assert plain("82.4% [71, 90]") == "82.4% [71, 90]"  # numbers stay readable


def test_markdown_holds_no_prompt_and_no_answer() -> None:
    text = render_markdown(realistic())
    assert "oil the hinge" not in text
    assert "A very long answer" not in text


def test_lines_show_before_after_and_the_control_with_intervals() -> None:
    lines = summary_lines(realistic())
    assert lines[0] == verdict(View(realistic())).sentence
    row = next(line for line in lines if line.startswith("Arabic") and "text-dominant" in line)
    assert len(re.findall(r"\d+\.\d% \[\d+, \d+\]", row)) == 3
    whole = "\n".join(lines)
    for words in (
        "Refusal gap",
        "Over-refusal",
        "Right answers",
        "chance",
        "rows of B",
        "unscored",
    ):
        assert words in whole
    assert "undefined" not in whole


def test_every_pooled_share_says_how_many_answers_it_rests_on() -> None:
    summary = realistic()
    lines = summary_lines(summary)
    start = lines.index("All cells pooled, % [95 % interval]")
    assert lines[start + 1].split()[-2:] == ["n", "unscored"]
    block = lines[start + 2 : lines.index("", start)]
    shares = [line for line in block if re.search(r"\d+\.\d% \[", line)]
    assert len(shares) > 5
    assert all(re.search(r"\]  +\d+ +\d+$", line) for line in shares)
    base = View(summary).rate("base", "attack_success")
    assert base is not None
    assert shares[0].split()[-2:] == [str(base.n), str(base.unscored)]
    gaps = [line for line in block if "points" in line]
    assert all(re.search(r"\d+\+\d+ +\d+\+\d+$", line) for line in gaps)


def test_a_stage_is_told_in_a_few_lines_with_its_controls() -> None:
    summary = realistic()
    facts, found = summary.neurons, summary.verification
    assert found is not None
    neurons = neuron_lines(facts)
    assert len(neurons) < 20 + len(facts.sets)
    row = next(line for line in neurons if line.startswith(facts.sets[0].name + " "))
    assert row.split()[1] == str(facts.sets[0].size)
    causal = causal_lines(found)
    assert causal[0] == found.verdict
    pooled = found.readouts[0]
    change = f"{pooled.suppressed - pooled.base:+.2f}"
    assert any(change in line and str(pooled.n) in line.split() for line in causal)
    rates = rate_lines(summary.rates)
    assert all(line.split()[-1].isdigit() for line in rates[1:-2])
    assert len(rates) < 2 + len(summary.rates)
    for lines in (neurons, causal, rates):
        assert "--json" in lines[-1]


def test_lines_carry_no_control_character_whatever_the_names() -> None:
    for text in (BIDI, "\x1b[2J\x1b]0;title\x07", SCRIPT):
        lines = summary_lines(hostile(text))
        assert not any(ord(c) < 32 or 0x202A <= ord(c) <= 0x2069 for line in lines for c in line)
        assert any("U+" in line or "<script>" in line for line in lines)


def test_rich_shows_the_same_numbers_and_reads_no_markup() -> None:
    summary = hostile("[bold red]x[/bold red]")
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(summary_renderables(summary))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold red]x[/bold red]" in shown
    numbers = set(re.findall(r"\d+\.\d% \[\d+, \d+\]", "\n".join(summary_lines(summary))))
    assert len(numbers) > 30
    assert numbers <= set(re.findall(r"\d+\.\d% \[\d+, \d+\]", shown))

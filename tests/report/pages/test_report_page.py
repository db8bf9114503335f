"""The page: hostile text shows as text, nothing is loaded, every figure has its table."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from precise_shield.core.errors import StoreError
from precise_shield.core.summary import Sample, Summary
from precise_shield.report.pages.page import render_html, write_report
from precise_shield.report.pages.samples import LONGEST
from report.fixture import (
    BIDI,
    BREAKOUT,
    FEW,
    LANGUAGES,
    LINK,
    LONG,
    SCRIPT,
    hostile,
    realistic,
    realistic_figures,
    realistic_page,
)

VOID = {"meta", "link", "br", "img", "input", "hr"}
TWO_MEGABYTES = 2_000_000
MANY_LANGUAGES = (*LANGUAGES, "ko", "th", "it", "sw", "bn", "vi", "tr")


class Reader(HTMLParser):
    """Balanced tags, the attributes of each, and the text outside of them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.wrong: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return realistic_page()


def with_samples(samples: list[Sample]) -> Summary:
    return realistic(languages=FEW).model_copy(update={"samples": samples})


@pytest.mark.parametrize("text", [SCRIPT, BREAKOUT, BIDI, LINK, "{{ 7*7 }}{% raw %}", "\"'><x y="])
def test_hostile_text_anywhere_shows_as_text(page: str, text: str) -> None:
    dirty = render_html(hostile(text), hostile(text))
    calm, read = Reader(page), Reader(dirty)
    assert not read.wrong
    assert not read.open
    strange = {name for name, _ in read.tags} - {name for name, _ in calm.tags}
    assert strange == set()
    assert len(read.of("script")) == 1
    assert not any(key.startswith("on") for _, attrs in read.tags for key in attrs)
    shown = "".join(read.text)
    needle = text.split("\u202e")[0]
    assert shown.count(needle) > 20  # it did arrive, in many places


def test_control_characters_are_visible_and_the_page_is_writable(tmp_path: Path) -> None:
    written = write_report(hostile(BIDI), tmp_path)
    text = written["report.html"].read_text(encoding="utf-8")
    assert not set("\u202e\u202c\u2066\u2069\u200b\x00\x1b") & set(text)
    assert "⟦U+202E⟧" in text
    assert "⟦U+D800⟧" in text


def test_the_page_asks_for_nothing_outside_itself(page: str) -> None:
    read = Reader(page)
    for name, attrs in read.tags:
        for key in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            value = attrs.get(key)
            assert value is None or value.startswith("#") or value == "data:,", (name, value)
    frame, texts = re.subn(r"<pre[^>]*>.*?</pre>", "", page, flags=re.DOTALL)
    assert texts > 10
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttp|import\(", frame)
    assert read.of("link") == [{"rel": "icon", "href": "data:,"}]  # links are looked at


def test_the_policy_allows_exactly_the_inline_blocks_that_are_there(page: str) -> None:
    policy = next(m["content"] for m in Reader(page).of("meta") if "http-equiv" in m)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    blocks = re.findall(r"<(style|script)>(.*?)</\1>", page, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["style", "script"]
    for kind, text in blocks:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert " style=" not in page  # the policy would drop it


def test_every_figure_has_a_table_and_a_sentence(page: str) -> None:
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(figures) == len(realistic_figures().all) >= 10
    for figure in figures:
        assert re.search(r"<table class=\"sortable\">.*<td", figure, re.DOTALL)
        assert re.search(r"<figcaption><h3>[^<]+</h3><p>[^<]+</p>", figure)
        assert "<svg" in figure
        assert 'aria-label="' in figure


def test_ids_are_unique_and_links_lead_somewhere(page: str) -> None:
    few = realistic(languages=FEW)
    read = Reader(render_html(few, few))
    ids = Counter(attrs["id"] for _, attrs in read.tags if "id" in attrs)
    assert max(ids.values()) == 1
    targets = [attrs["href"] for attrs in read.of("a")]
    assert len(targets) >= 8
    assert all(target is not None and target.removeprefix("#") in ids for target in targets)


def test_undefined_is_shown_as_undefined() -> None:
    summary = realistic(languages=FEW)
    nothing = {"hits": 0, "n": 0, "unscored": 60, "value": None, "low": None, "high": None}
    rates = [
        r.model_copy(update=nothing)
        if (r.condition, r.measure, r.language, r.modality)
        == ("aligned", "attack_success", "ar", "text")
        else r
        for r in summary.rates
    ]
    page = render_html(summary.model_copy(update={"rates": rates}))
    assert "undefined n=0 unscored=60" not in realistic_page()
    assert "<td>undefined n=0 unscored=60</td>" in page  # no number to sort by either
    assert "cell void" in page  # hatched in the heat map
    assert "1 cells are undefined or not measured" in page


def test_equal_summaries_give_equal_pages() -> None:
    bare = realistic(languages=FEW).model_copy(update={"samples": []})
    again = Summary.model_validate_json(bare.model_dump_json())
    first = render_html(bare)
    assert again is not bare
    assert render_html(again) == first
    assert render_html(bare.model_copy(update={"name": "another"})) != first


def test_a_megabyte_answer_is_cut_with_its_count(page: str) -> None:
    assert len(LONG) > 1_000_000
    left = len(LONG) - LONGEST
    assert f"{len(LONG):,} characters, the first 1,200 shown, {left:,} left out" in page
    assert len(page) < 1_000_000


@pytest.mark.slow
def test_the_page_stays_under_two_megabytes_at_fifty_cells_and_many_samples() -> None:
    worst = "<\u202e&" * 2000
    samples = [
        Sample(
            example=f"{k}", language="ar", modality="text", harm="harmful", prompt=worst,
            responses={f"c{j}": worst for j in range(6)}, labels={},
        )
        for k in range(400)
    ]  # fmt: skip
    summary = realistic(n=40, languages=MANY_LANGUAGES, layers=36)
    page = render_html(summary.model_copy(update={"samples": samples}))
    assert len(MANY_LANGUAGES) * 3 >= 50
    assert len(page.encode()) < TWO_MEGABYTES
    shown = page.count('class="sample"')
    assert shown > 0
    assert f"{400 - shown} more samples are in summary.json" in page


def test_what_belongs_to_a_harmful_request_is_folded_twice() -> None:
    secret, open_answer = "SECRET-ANSWER", "OPEN-ANSWER"
    samples = [
        Sample(example="h", language="en", modality="text", harm="harmful", prompt=secret,
               responses={"base": secret}, labels={}),
        Sample(example="b", language="en", modality="text", harm="benign", prompt="q",
               responses={"base": open_answer}, labels={}),
    ]  # fmt: skip
    page = render_html(with_samples(samples))

    def depth(words: str) -> list[int]:
        return [
            page[: found.start()].count("<details") - page[: found.start()].count("</details")
            for found in re.finditer(words, page)
        ]

    assert depth(secret) == [2, 2]
    assert depth(open_answer) == [1]
    assert not re.search(r"<details[^>]* open", page)


def test_text_of_right_to_left_languages_keeps_its_direction(page: str) -> None:
    assert '<pre dir="rtl" lang="ar">' in page
    assert '<pre dir="auto" lang="zh">' in page


@pytest.mark.parametrize("missing", ["verification", "receipts", "claims", "samples", "costs",
                                     "differences", "rates", "conditions"])  # fmt: skip
def test_a_partial_run_still_makes_a_page(missing: str) -> None:
    empty = None if missing == "verification" else []
    partial = realistic(languages=FEW).model_copy(update={missing: empty})
    read = Reader(render_html(partial, partial))
    assert not read.wrong
    assert not read.open


def test_two_runs_stand_beside_each_other(page: str) -> None:
    same = realistic(languages=FEW)
    other = same.model_copy(update={"name": "other-run", "judge": "another judge"})
    both = render_html(same, other)
    assert 'id="compare"' in both
    assert 'id="compare"' not in page
    assert "The runs differ in judge" in both
    assert "Same model, same data, same judge" in render_html(same, same)


def test_write_report_writes_what_it_names(tmp_path: Path) -> None:
    written = write_report(realistic(languages=FEW), tmp_path / "new" / "run")
    assert {"report.html", "report.md", "figures/forest.svg", "figures/attack-success.svg"} <= set(
        written
    )
    for name, path in written.items():
        assert path == tmp_path / "new" / "run" / name
        assert path.stat().st_size > 500
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(StoreError, match="cannot write under"):
        write_report(realistic(languages=FEW), blocked)

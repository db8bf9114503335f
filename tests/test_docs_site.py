"""The documentation builds, offline, and nothing in it leads nowhere."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from precise_shield import api
from precise_shield.workflows.base.config import Config

DOCS = Path(__file__).parents[1] / "docs"
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def make():
    sys.path.insert(0, str(DOCS))
    try:
        import make
    finally:
        sys.path.remove(str(DOCS))
    return make


@pytest.fixture(scope="module")
def site(make, tmp_path_factory):
    out = tmp_path_factory.mktemp("docs") / "site"
    make.build(out)
    return out


class Page(HTMLParser):
    """What a page links to, loads and can be linked to by."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found["id"]} if "id" in found else set()
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("link", "script", "img") and (found.get("href") or found.get("src")):
            self.loads.append(found.get("href") or found.get("src"))


def test_every_page_is_there_and_every_link_leads_somewhere(make, site):
    pages = {path.name: Page(path.read_text(encoding="utf-8")) for path in site.glob("*.html")}
    pages.pop("404.html")
    wanted = {make.place(path).replace(".md", ".html") for p in make.pages().values() for path in p}
    assert pages.keys() == wanted
    assert {f"{path.stem}.html" for path in DOCS.glob("*.md")} <= pages.keys()
    checked = 0
    for name, page in pages.items():
        assert not [one for one in page.loads if "//" in one], name  # nothing from outside
        for link in page.links:
            if "//" in link or link.startswith("mailto:"):
                continue
            there, _, anchor = unquote(link).partition("#")
            target = there.removeprefix("./") or name
            assert target in pages or (site / target).exists(), f"{name}: {link}"
            if anchor and anchor != "__skip":
                assert anchor in pages[target].ids, f"{name}: {link}"
            checked += 1
    assert checked > 300


def test_references_hold_every_function_command_and_key(site):
    texts = {name: (site / f"{name}.html").read_text(encoding="utf-8")
             for name in ("api", "cli", "config", "method", "summary")}  # fmt: skip
    for name in api.__all__:
        assert f'id="{name.lower()}"' in texts["api"]
    for section in Config.model_fields:
        assert f">{section}<" in texts["config"] or f'id="{section}"' in texts["config"]
    assert "Most nats a token by which benign answers may drift" in texts["config"]
    assert "precise-shield judge sheet FOLDER OUT" in texts["cli"]
    assert 'id="ratefacts"' in texts["summary"] or 'id="rate' in texts["summary"]
    assert texts["method"].count("<math") >= 6
    assert "```" not in texts["method"]


@pytest.mark.browser
def test_the_configuration_reads_on_a_phone_without_scrolling_sideways(site):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    wide = """() => [...document.querySelectorAll('.keys table')].map(table => [
        table.closest('.md-typeset__scrollwrap') || table, table]).map(([wrap, table]) =>
        wrap.scrollWidth > wrap.clientWidth || table.scrollWidth > table.clientWidth)"""
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 420, "height": 900})
        page.goto((site / "config.html").as_uri())
        found = page.evaluate(wide)
        assert len(found) > 20
        assert not any(found)
        page.add_style_tag(content=".keys tr { display: table-row !important; }"
                           ".keys table:not([class]) td { display: table-cell !important;"
                           " white-space: nowrap }")  # fmt: skip
        assert any(page.evaluate(wide))  # as a table it would not fit
        browser.close()


def test_a_link_that_leads_nowhere_is_refused(make, tmp_path, monkeypatch):
    problems = []
    text = "See [it](no-such.md), and `[code](kept.md)` in\n```text\n[fence](kept.md)\n```\n"
    found = make.relinked(
        text.replace("`[code](kept.md)`", ""), "docs/data.md", {}, tmp_path, problems
    )
    assert problems == ["docs/data.md: no-such.md leads nowhere"]
    assert "[fence](kept.md)" in found
    assert re.search(r"<math.*<mfrac>", make.with_equations("```math\n\\frac{a}{b}\n```\n"))

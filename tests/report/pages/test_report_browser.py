"""The page in a real browser, with the network off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from precise_shield.report.pages.page import render_html
from report.fixture import BREAKOUT, LINK, SCRIPT, hostile, realistic_page

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class Opened:
    """A page and all that it said or asked for."""

    page: object
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield started
        started.close()


def opened(browser: object, html: str, folder: Path, width: int = 1280, **more: str) -> Opened:
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    context = browser.new_context(  # type: ignore[attr-defined]
        viewport={"width": width, "height": 900}, offline=True, **more
    )
    page = context.new_page()
    result = Opened(page)
    page.on("console", lambda m: result.complaints.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda e: result.complaints.append(f"error: {e}"))
    page.on("dialog", lambda d: (result.complaints.append(f"dialog: {d.message}"), d.dismiss()))
    page.on("request", lambda r: result.requests.append(r.url))
    page.goto(path.as_uri())
    return result


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_renders_without_network_and_without_a_word(
    browser: object, tmp_path: Path, width: int, scheme: str
) -> None:
    it = opened(browser, realistic_page(), tmp_path, width, color_scheme=scheme)
    assert it.complaints == []
    assert [url for url in it.requests if not url.startswith(("file:", "data:"))] == []
    assert it.page.locator("figure svg.figure").count() > 30  # type: ignore[attr-defined]
    sides = it.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")  # type: ignore[attr-defined]
    assert sides[0] <= sides[1]  # nothing sticks out
    dark = it.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")  # type: ignore[attr-defined]
    assert dark == ("rgb(19, 21, 25)" if scheme == "dark" else "rgb(251, 250, 247)")


def test_hostile_content_opens_no_dialog_and_shows_as_text(browser: object, tmp_path: Path) -> None:
    text = SCRIPT + BREAKOUT + LINK
    it = opened(browser, render_html(hostile(text), hostile(text)), tmp_path)
    it.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")  # type: ignore[attr-defined]
    it.page.wait_for_timeout(200)  # type: ignore[attr-defined]
    assert it.complaints == []
    assert [url for url in it.requests if not url.startswith(("file:", "data:"))] == []
    assert it.page.locator("script").count() == 1  # type: ignore[attr-defined]
    assert it.page.locator("img").count() == 0  # type: ignore[attr-defined]
    assert SCRIPT in it.page.locator("#samples pre").first.inner_text()  # type: ignore[attr-defined]


def test_an_injected_script_would_be_stopped_by_the_policy(browser: object, tmp_path: Path) -> None:
    """The second wall: even a page with an escaping error runs no foreign script."""
    broken = realistic_page().replace("</main>", SCRIPT + "<img src=x onerror=alert(1)></main>")
    it = opened(browser, broken, tmp_path)
    it.page.wait_for_timeout(200)  # type: ignore[attr-defined]
    assert not any(word.startswith("dialog") for word in it.complaints)
    assert any("Content Security Policy" in word for word in it.complaints)


def test_tables_sort_by_number_both_ways_with_undefined_last(
    browser: object, tmp_path: Path
) -> None:
    page = opened(browser, realistic_page(), tmp_path).page
    page.click("#forest details.numbers > summary")  # type: ignore[attr-defined]
    head = page.locator("#forest thead th").nth(6)  # type: ignore[attr-defined]
    column = "els => els.map(r => [r.cells[6].dataset.v ?? null, r.cells[6].textContent])"

    def values() -> list[float | None]:
        rows = page.eval_on_selector_all("#forest tbody tr", column)  # type: ignore[attr-defined]
        return [None if v is None else float(v) for v, _ in rows]

    before = values()
    head.locator("button").focus()
    page.keyboard.press("Enter")  # type: ignore[attr-defined]
    up = values()
    numbers = [v for v in up if v is not None]
    assert numbers == sorted(numbers) != [v for v in before if v is not None]
    assert None in up
    assert up[: len(numbers)] == numbers
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    down = [v for v in values() if v is not None]
    assert down == sorted(numbers, reverse=True)
    assert values()[-1] is None
    assert head.get_attribute("aria-sort") == "descending"


def test_details_open_and_answers_need_their_own_click(browser: object, tmp_path: Path) -> None:
    page = opened(browser, realistic_page(), tmp_path).page
    answer = page.locator("#samples pre").first  # type: ignore[attr-defined]
    assert not answer.is_visible()
    page.locator("#samples .sample > summary").first.click()  # type: ignore[attr-defined]
    assert not answer.is_visible()
    page.locator("#samples .said summary").first.click()  # type: ignore[attr-defined]
    assert answer.is_visible()
    assert not page.locator("#forest table").is_visible()  # type: ignore[attr-defined]
    page.click("#all")  # type: ignore[attr-defined]
    assert page.locator("#forest table").is_visible()  # type: ignore[attr-defined]
    assert page.locator("#all").inner_text() == "Close all tables"  # type: ignore[attr-defined]


def test_a_figure_tells_its_number_under_the_pointer(browser: object, tmp_path: Path) -> None:
    page = opened(browser, realistic_page(), tmp_path).page
    tip = page.locator("#tip")  # type: ignore[attr-defined]
    assert not tip.is_visible()
    page.locator("#attack-success").scroll_into_view_if_needed()  # type: ignore[attr-defined]
    page.wait_for_timeout(200)  # type: ignore[attr-defined]
    page.locator("#attack-success g.tip").first.hover()  # type: ignore[attr-defined]
    page.wait_for_timeout(200)  # type: ignore[attr-defined]
    page.mouse.move(3, 3)  # type: ignore[attr-defined]
    page.locator("#attack-success g.tip").first.hover()  # type: ignore[attr-defined]
    assert tip.is_visible()
    assert "n=60 unscored=0" in tip.inner_text()
    page.keyboard.press("Escape")  # type: ignore[attr-defined]
    assert not tip.is_visible()


def test_a_figure_tells_its_numbers_by_keyboard(browser: object, tmp_path: Path) -> None:
    page = opened(browser, realistic_page(), tmp_path).page
    page.locator("#attack-success svg").first.focus()  # type: ignore[attr-defined]
    told = []
    for key in ("ArrowRight", "ArrowDown", "End", "ArrowRight", "Home"):
        page.keyboard.press(key)  # type: ignore[attr-defined]
        assert page.locator(".tip.here").count() == 1  # type: ignore[attr-defined]
        told.append(page.locator("#tip").inner_text())  # type: ignore[attr-defined]
    assert told[0] == told[4] != told[1] != told[2] == told[3]
    assert all("n=" in words for words in told)
    page.keyboard.press("Tab")  # type: ignore[attr-defined]
    assert not page.locator("#tip").is_visible()  # type: ignore[attr-defined]
    assert page.locator(".tip.here").count() == 0  # type: ignore[attr-defined]


def test_claims_are_read_on_a_phone_without_moving_sideways(
    browser: object, tmp_path: Path
) -> None:
    page = opened(browser, realistic_page(), tmp_path, 400).page
    sides = page.eval_on_selector_all(  # type: ignore[attr-defined]
        "#believe > .scroll", "els => els.map(e => [e.scrollWidth, e.clientWidth])"
    )
    assert sides
    assert all(inner <= outer for inner, outer in sides)


def test_without_scripts_the_page_still_says_everything(browser: object, tmp_path: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)  # type: ignore[attr-defined]
    page = context.new_page()
    path = tmp_path / "report.html"
    path.write_text(realistic_page(), encoding="utf-8")
    page.goto(path.as_uri())
    assert page.locator(".verdict").is_visible()
    page.locator("#forest details.numbers > summary").click()
    assert page.locator("#forest table").is_visible()
    assert page.locator("#all").is_hidden()  # no dead button
    assert page.locator("th button").count() == 0


def test_matrices_take_another_order_by_keyboard(browser: object, tmp_path: Path) -> None:
    page = opened(browser, realistic_page(), tmp_path).page
    order = page.locator("#overlap select")  # type: ignore[attr-defined]
    columns = """els => els.map(e => [e.textContent, e.getBoundingClientRect().x])
        .sort((a, b) => a[1] - b[1]).map(a => a[0])"""
    heads = "#overlap .panel:first-child svg > g[data-c]:not([data-r])"

    def across() -> list[str]:
        return page.eval_on_selector_all(heads, columns)  # type: ignore[attr-defined, no-any-return]

    def cell() -> tuple[str, str]:
        """The words under which a cell is found, and where it stands."""
        one = page.locator("#overlap g[data-r='0'][data-c='1']").first  # type: ignore[attr-defined]
        return one.text_content(), one.get_attribute("transform") or ""

    before, word = across(), cell()[0]
    order.focus()
    page.keyboard.press("End")  # type: ignore[attr-defined]
    assert order.input_value() == "by similarity"
    assert sorted(across()) == sorted(before) != across() != before
    assert cell()[0] == word
    page.keyboard.press("Home")  # type: ignore[attr-defined]
    assert across() == before
    assert cell()[1] == "translate(0 0)"

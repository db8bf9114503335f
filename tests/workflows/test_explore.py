"""Pages that tell what was stored of each neuron, to this machine and to nobody else."""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import shutil
import threading
from contextlib import contextmanager
from html import unescape
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from precise_shield.cli import app
from precise_shield.core.errors import ConfigError, DataError, StoreError
from precise_shield.core.sites import Site
from precise_shield.report.pages.explore import front_page, neuron_page, site_page
from precise_shield.workflows import explore
from precise_shield.workflows.base.summary_file import read_summary
from precise_shield.workflows.explore import explorer, found_in, page_of

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e"


@pytest.fixture(scope="module")
def found(finished):
    return found_in(finished[0].folder)


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def port(finished):
    with serving(explorer(finished[0].folder)) as port:
        yield port


def ask(port, path, method="GET", **headers):
    caller = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    caller.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    reply = caller.getresponse()
    body = reply.read().decode()
    caller.close()
    return reply, body


def stored(run, stage, name):
    (path,) = (run.folder / "stages" / stage).glob(f"*/{name}")
    return json.loads(path.read_text())


def hostile(found):
    """The same run, had its tokenizer, prompts and model been named by an enemy."""
    writes = found.summary.explained.writes
    one = writes.neurons[0]
    token = one.tokens[0].model_copy(update={"text": SCRIPT})
    driver = one.prompts[0].model_copy(update={"example": SCRIPT})
    bad = one.model_copy(update={"tokens": [token], "prompts": [driver]})
    writes = writes.model_copy(update={"neurons": [bad]})
    explained = found.summary.explained.model_copy(update={"writes": writes})
    model = found.summary.model.model_copy(update={"path": SCRIPT})
    update = {"explained": explained, "model": model, "name": SCRIPT}
    summary = found.summary.model_copy(update=update)
    return dataclasses.replace(found, summary=summary), Site.parse(one.site), one.unit


def test_memberships_and_inclusion_are_those_of_the_stages(finished, found):
    """Told from `neurons.json` and `inclusion.json` alone."""
    run, _ = finished
    sets = stored(run, "identify", "neurons.json")["sets"]
    shares = stored(run, "explain", "inclusion.json")["sets"]
    checked = 0
    for site in found.atlas.widths:
        name = str(site)
        for unit in range(found.atlas.widths[site]):
            expected = {
                of: shares[of][name][units[name].index(unit)]
                for of, units in sets.items()
                if unit in units.get(name, [])
            }
            members = found.members(site, unit)
            assert {one.name: one.inclusion for one in members} == expected
            checked += len(members)
        listed = {row.unit: set(row.cells) for row in found.rows(site)}
        for cell in ("en/text", "fr/text", "en/image_dominant"):
            assert {u for u, cells in listed.items() if cell in cells} == {
                *sets[cell].get(name, [])
            }
    assert checked > 20
    assert len({one.inclusion for one in found.members(*somewhere(found))}) >= 1


def somewhere(found):
    one = found.summary.explained.writes.neurons[0]
    return Site.parse(one.site), one.unit


def test_a_neuron_that_was_read_shows_tokens_and_ids_and_no_prompt(finished, found):
    run, summary = finished
    for one in summary.explained.writes.neurons:
        page = neuron_page(found, Site.parse(one.site), one.unit)
        assert all(unescape(driver.example) in unescape(page) for driver in one.prompts)
        assert f"{one.tokens[0].logit:.3f}" in page
        prompts = [row.prompt for row in run.data.examples if len(row.prompt) > 12]
        assert prompts
        assert not [prompt for prompt in prompts if prompt in unescape(page)]
    read = set(found.read)
    site = next(iter(found.atlas.widths))
    unit = next(u for u in range(99) if (str(site), u) not in read)
    assert "Not measured for this neuron" in neuron_page(found, site, unit)


def test_a_run_that_read_nothing_says_so(found):
    explained = found.summary.explained.model_copy(update={"writes": None})
    summary = found.summary.model_copy(update={"explained": explained})
    bare = dataclasses.replace(found, summary=summary, inclusion={})
    site, unit = somewhere(found)
    assert "did not read" in front_page(bare)
    assert "Not measured" in neuron_page(bare, site, unit)
    assert "–" in site_page(bare, site)


def test_hostile_names_are_text(found):
    bad, site, unit = hostile(found)
    for page in (front_page(bad), site_page(bad, site), neuron_page(bad, site, unit)):
        assert "<script" not in page
        assert "<img" not in page
        assert "\x1b" not in page
        assert "\u202e" not in page
        assert "&lt;script&gt;" in page
        assert "⟦U+202E⟧" in page


def test_every_link_leads_somewhere_with_every_wall_up(port):
    _, front = ask(port, "/")
    links = {unescape(link) for link in re.findall(r'<a href="([^"]+)"', front)}
    assert any(link.startswith("/site?") for link in links)
    assert any(link.startswith("/neuron?") for link in links)
    site = next(link for link in sorted(links) if link.startswith("/site?"))
    _, page = ask(port, site)
    links |= {unescape(link) for link in re.findall(r'<a href="([^"]+)"', page)}
    for link in [*sorted(links)[:40], "/style.css"]:
        reply, body = ask(port, link)
        assert reply.status == 200, link
        assert body
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert "script-src" not in reply.headers["Content-Security-Policy"]
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "http:" not in body
        assert "https:" not in body


def test_it_answers_this_machine_and_no_other_site(port, finished):
    assert ask(port, "/", Host=f"localhost:{port}")[0].status == 200
    assert ask(port, "/", Origin=f"http://127.0.0.1:{port}")[0].status == 200
    strange = [
        {"Host": "evil.example"},
        {"Host": f"evil.example:{port}"},
        {"Host": f"127.0.0.1:{port + 1}"},
        {"Host": f"127.0.0.1:{port}@evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ]
    for headers in strange:
        for path in ("/", "/style.css", "/neuron?site=text.0.ffn&unit=0"):
            reply, body = ask(port, path, **headers)
            assert (reply.status, body) == (403, "not from here\n"), headers
    for method in ("POST", "PUT", "OPTIONS"):
        assert ask(port, "/", method)[0].status == 501
    reply, body = ask(port, "/", "HEAD")
    assert (reply.status, body) == (200, "")
    server = explorer(finished[0].folder)
    try:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(ConfigError, match="another --port"):
            explorer(finished[0].folder, server.server_address[1])
    finally:
        server.server_close()


@pytest.mark.parametrize(
    "path",
    ["/gone", "/../../etc/passwd", "/site", "/site?name=text.99.ffn", "/neuron?site=text.0.ffn",
     "/neuron?site=text.0.ffn&unit=-1", "/neuron?site=text.0.ffn&unit=999999",
     "/neuron?site=text.0.ffn&unit=%D9%A3", "/site?name=<script>alert(1)</script>"],
)  # fmt: skip
def test_what_is_not_there_is_a_sentence(port, path):
    reply, body = ask(port, path.replace("<", "%3C").replace(">", "%3E"))
    assert reply.status == 404
    assert "Nothing to show" in body
    assert "<script" not in body
    assert "Traceback" not in body


def test_sets_that_are_not_the_summarys_are_refused(finished, tmp_path):
    run, _ = finished
    with pytest.raises(StoreError, match=r"summary\.json is missing"):
        found_in(tmp_path)
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    assert len(found_in(folder).inclusion) > 3
    config = folder / "config.yaml"
    config.write_text(re.sub(r"(?m)^  p: 0\.1$", "  p: 0.4", before := config.read_text()))
    assert config.read_text() != before
    assert len(found_in(folder).inclusion) > 3, "as where a search picked another p"
    shutil.rmtree(folder / "stages" / "explain")
    assert found_in(folder).inclusion == {}
    summary = read_summary(folder)
    assert summary.neurons.identified is not None  # sets of like sizes are not enough
    other = summary.neurons.model_copy(update={"identified": "another"})
    (folder / "summary.json").write_text(
        summary.model_copy(update={"neurons": other}).model_dump_json()
    )
    with pytest.raises(StoreError, match="holds no sets that"):
        found_in(folder)
    one = summary.neurons.sets[0].model_copy(update={"size": 10**6})
    neurons = summary.neurons.model_copy(update={"sets": [one, *summary.neurons.sets[1:]]})
    text = summary.model_copy(update={"neurons": neurons}).model_dump_json()
    (folder / "summary.json").write_text(text)
    with pytest.raises(StoreError, match="holds no sets that"):
        found_in(folder)


def test_the_command_says_its_address_and_ends_with_ctrl_c(finished, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", interrupted)
    done = CliRunner().invoke(app, ["explore", str(finished[0].folder)])
    assert done.exit_code == 0, done.output
    assert re.match(r"http://127\.0\.0\.1:\d+/ ", done.stdout)


def test_an_unknown_site_is_no_page(found):
    with pytest.raises(DataError, match="did not search"):
        page_of(found, "/site", "name=vision.0.ffn")


@pytest.mark.browser
def test_a_browser_clicks_through_and_runs_nothing(found, monkeypatch, finished):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip(f"no browser at {chromium}")
    bad, site, unit = hostile(found)
    monkeypatch.setattr(explore, "found_in", lambda _: bad)
    with serving(explorer(finished[0].folder)) as port, api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(chromium), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        said, asked = [], []
        page.on("console", lambda m: said.append(m.text))
        page.on("pageerror", lambda e: said.append(str(e)))
        page.on("dialog", lambda d: (said.append("dialog"), d.dismiss()))
        page.on("request", lambda r: asked.append(r.url))
        page.goto(f"http://127.0.0.1:{port}/")
        assert page.locator("#sites tbody tr").count() == len(bad.atlas.widths)
        page.click("#read a")
        assert page.locator("h1").inner_text() == f"{site} · {unit}"
        assert "<script>alert(1)</script>" in page.locator("#tokens td.token").inner_text()
        assert page.locator("#members tbody tr").count() == len(bad.members(site, unit))
        page.click("main a >> text=All of")
        assert page.locator("#units tbody tr").count() == len(bad.rows(site))
        page.fill("input[name=unit]", "0")
        page.click("form button")
        assert page.locator("h1").inner_text() == f"{site} · 0"
        size = page.evaluate("getComputedStyle(document.querySelector('h1')).fontSize")
        assert size == "24px"  # the style sheet is let through by the policy
        browser.close()
    assert said == []
    home = f"http://127.0.0.1:{port}/"
    assert [url for url in asked if not url.startswith((home, "data:"))] == []

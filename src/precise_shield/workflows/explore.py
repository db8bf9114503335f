"""Browse a finished run's neurons: what was stored, served to this machine alone."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from precise_shield.core.atlas import Atlas
from precise_shield.core.errors import ConfigError, DataError, StoreError
from precise_shield.core.sites import Site
from precise_shield.core.store import Stage, digest, read_json
from precise_shield.report.pages.explore import (
    Found,
    front_page,
    neuron_page,
    refusal_page,
    site_page,
    style_sheet,
)
from precise_shield.workflows.base.config import Config, load_config
from precise_shield.workflows.base.summary_file import read_summary
from precise_shield.workflows.identify.stage import UNSEEN

LOOPBACK = "127.0.0.1"

POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
"""Nothing but the pages' own style sheet; no script at all."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def found_in(folder: Path) -> Found:
    """Read the sets of a finished run and all that it measured of single neurons; no model runs.

    Raises:
        StoreError: the run is not finished, or its sets are not those of its summary.
    """
    summary = read_summary(folder)
    config = load_config(folder / "config.yaml")
    config.identify.p = summary.neurons.p  # a search may have put its pick in the place
    sizes = {one.name: one.size for one in summary.neurons.sets}
    key = summary.neurons.identified
    for stage in _stages(folder, "identify", config):
        if key is not None and stage.key != key:
            continue
        atlas = Atlas.load(stage.folder)
        if {name: len(neurons) for name, neurons in atlas.sets.items()} == sizes:
            return Found(summary, atlas, _inclusion(folder, config, stage))
    raise StoreError(
        f"{folder} holds no sets that its config.yaml and summary.json describe; run"
        " `precise-shield run` with that config.yaml again."
    )


def _stages(folder: Path, name: str, config: Config) -> list[Stage]:
    """Finished stages of a kind that the configuration's `identify` made, latest first."""
    wanted = digest(config.identify.model_dump(exclude=UNSEEN))
    files = sorted(
        (folder / "stages" / name).glob("*/stage.json"), key=lambda file: -file.stat().st_mtime
    )
    stages = []
    for file in files:
        record = read_json(file)
        if digest(record["made_by"].get("identify")) == wanted:
            stages.append(Stage(name, record["key"], record["made_by"], file.parent))
    return stages


def _inclusion(
    folder: Path, config: Config, identified: Stage
) -> dict[str, dict[str, list[float]]]:
    for stage in _stages(folder, "explain", config):
        same = stage.made_by.get("collect") == identified.made_by["collect"]
        if same and stage.path("inclusion.json").is_file():
            sets: dict[str, dict[str, list[float]]] = stage.read_json("inclusion.json")["sets"]
            return sets
    return {}


def explorer(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of pages to browse a finished run, bound to this machine's loopback address.

    It answers nobody who calls it by another host's name or from another site's page. Call
    `serve_forever`, and `server_close` at the end.

    Args:
        folder: folder of a finished `run`.
        port: 0 takes any that is free.

    Raises:
        StoreError: as `found_in`.
        ConfigError: the port cannot be had.
    """
    found = found_in(folder)

    class Handler(_Handler):
        run = found

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"port {port} cannot be had ({error}); give another --port.") from error


class _Handler(BaseHTTPRequestHandler):
    run: Found
    timeout = 10

    def version_string(self) -> str:
        return "precise-shield"

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: the terminal is the user's."""

    def do_GET(self) -> None:
        status, kind, body = self._answer()
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def _answer(self) -> tuple[HTTPStatus, str, bytes]:
        html = "text/html; charset=utf-8"
        if not self._from_here():
            return HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", b"not from here\n"
        parts = urlsplit(self.path)
        if parts.path == "/style.css":
            return HTTPStatus.OK, "text/css; charset=utf-8", style_sheet()
        try:
            page = page_of(self.run, parts.path, parts.query)
        except DataError as error:
            return HTTPStatus.NOT_FOUND, html, _bytes(refusal_page(str(error)))
        return HTTPStatus.OK, html, _bytes(page)

    def _from_here(self) -> bool:
        """The address is spelt as ours, and no other site's page sent the request.

        A name that another site points at 127.0.0.1 (DNS rebinding) shows in `Host`.
        """
        port = self.connection.getsockname()[1]
        hosts = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}
        origin = self.headers.get("Origin")
        return (
            self.headers.get_all("Host", []) in [[host] for host in hosts]
            and (origin is None or origin in {f"http://{host}" for host in hosts})
            and self.headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin"}
        )


def _bytes(page: str) -> bytes:
    return page.encode("utf-8", "replace")


def page_of(found: Found, path: str, query: str) -> str:
    """The page of an address.

    Raises:
        DataError: there is no such page, site or unit.
    """
    asked = {name: values[-1] for name, values in parse_qs(query).items()}
    if path == "/":
        return front_page(found)
    if path == "/site":
        return site_page(found, _site(found, asked.get("name", "")))
    if path == "/neuron":
        site, unit = _site(found, asked.get("site", "")), asked.get("unit", "")
        width = found.atlas.widths[site]
        if not (unit.isascii() and unit.isdigit() and len(unit) < 10 and int(unit) < width):
            raise DataError(f"{site} has units 0 to {width - 1}, not {unit!r:.40}.")
        return neuron_page(found, site, int(unit))
    raise DataError(f"there is no page {path!r:.80}.")


def _site(found: Found, name: str) -> Site:
    site = Site.parse(name[:80])
    if site not in found.atlas.widths:
        raise DataError(f"this run did not search {site}.")
    return site

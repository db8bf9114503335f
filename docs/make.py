"""Build the documentation: `python docs/make.py [FOLDER]` writes the site to `site/`.

The pages are the Markdown files of `docs/` and of the repository's root, as they also read on a
code host; `generated.py` writes those of the commands, the Python functions and the configuration
from the code. `zensical` turns them into HTML that loads nothing from outside.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from latex2mathml.converter import convert

import generated

ROOT = Path(__file__).resolve().parents[1]
NAV: dict[str, list[str]] = {
    "Start": ["README.md"],
    "Guides": ["docs/own-data.md", "docs/own-architecture.md", "docs/own-judge.md",
               "docs/experts.md", "docs/around.md"],
    "Method": ["docs/method.md", "docs/data.md", "docs/judging.md", "docs/formats.md"],
    "Reference": ["cli.md", "api.md", "config.md", "summary.md", "examples.md"],
    "Project": ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"],
}  # fmt: skip
"""Pages in their order; any other file of `docs/` comes at the end of the guides."""

TITLES = {"README.md": "What it is"}
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```[^\n]*\n?", re.M | re.S)
MATH = re.compile(r"^```math\n(.*?)^```[^\n]*\n", re.M | re.S)


def pages() -> dict[str, list[str]]:
    """The navigation, with the files of `docs/` that it does not name."""
    named = {path for paths in NAV.values() for path in paths}
    others = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
    return {**NAV, "Guides": NAV["Guides"] + [path for path in others if path not in named]}


def place(path: str) -> str:
    """The file of the site that a file of the repository becomes."""
    return "index.md" if path == "README.md" else Path(path).name


def collected(folder: Path) -> list[str]:
    """Write every page's Markdown into `folder`, links and equations made ready.

    Returns:
        What is wrong: links that lead nowhere.
    """
    written = generated.pages(ROOT)
    nav = pages()
    places = {path: place(path) for paths in nav.values() for path in paths}
    places |= {f"examples/{name}": "examples.md#" + name.replace(".", "").lower()
               for name in generated.example_names(ROOT)}  # fmt: skip
    places["examples/README.md"] = "examples.md"
    problems: list[str] = []
    for path in [path for paths in nav.values() for path in paths]:
        text = written[path] if path in written else (ROOT / path).read_text(encoding="utf-8")
        text = relinked(text, path, places, folder, problems)
        (folder / place(path)).write_text(with_equations(text), encoding="utf-8")
    return problems


def relinked(
    text: str, path: str, places: Mapping[str, str], folder: Path, problems: list[str]
) -> str:
    """Turn links between files of the repository into links between pages; copy pictures."""
    start = ROOT if path in generated.NAMES else (ROOT / path).parent

    def link(found: re.Match[str]) -> str:
        words, target = found.groups()
        if "://" in target or target.startswith("#"):
            return found[0]
        name, _, anchor = target.partition("#")
        there = os.path.relpath(start / name, ROOT)
        if there in places:
            new = places[there]
            return f"{words}({new}{'#' + anchor if anchor and '#' not in new else ''})"
        if start == ROOT and name in places.values():
            return found[0]
        if not (ROOT / there).exists():
            problems.append(f"{path}: {target} leads nowhere")
        elif words.startswith("!"):
            shutil.copy(ROOT / there, folder / Path(there).name)
            return f"{words}({Path(there).name})"
        return f"{words[1:-1]} (`{there}`)"  # a file of the repository that is no page

    pieces, last = [], 0
    for fence in FENCE.finditer(text):
        pieces += [LINK.sub(link, text[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*pieces, LINK.sub(link, text[last:])])


def with_equations(text: str) -> str:
    """Render each ```math block to MathML, which browsers draw themselves."""

    def drawn(found: re.Match[str]) -> str:
        return f'\n<div class="equation">{convert(found[1].strip(), display="block")}</div>\n\n'

    return MATH.sub(drawn, text)


def settings() -> str:
    """What zensical is told; no font, analytics or icon is fetched from anywhere."""
    rows = []
    for title, paths in pages().items():
        items = ", ".join(
            f'{{"{TITLES[path]}" = "{place(path)}"}}' if path in TITLES else f'"{place(path)}"'
            for path in paths
        )
        rows.append(f'  {{"{title}" = [{items}]}},')
    text = (ROOT / "docs" / "zensical.toml").read_text(encoding="utf-8")
    return text.replace("@nav@", "\n".join(rows))


def build(out: Path) -> None:
    """Build the site into `out`.

    Raises:
        SystemExit: a link leads nowhere, or zensical warns of something.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "docs"
        source.mkdir()
        problems = collected(source)
        if problems:
            raise SystemExit("\n".join(problems))
        (source / "extra.css").write_text(CSS, encoding="utf-8")
        made = Path(scratch) / "site"
        config = Path(scratch) / "zensical.toml"
        config.write_text(settings(), encoding="utf-8")
        command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not (made / "index.html").is_file():
            raise SystemExit(f"zensical failed:\n{done.stdout}{done.stderr}")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out)


CSS = """
.equation { overflow-x: auto; margin: 1em 0; }
.equation math { font-size: 1.15em; margin: .5em 0; }
.md-typeset table:not([class]) { font-size: .68rem; }
.md-typeset table:not([class]) th { min-width: 4rem; }
.md-typeset td code { word-break: normal; overflow-wrap: anywhere; }
.md-typeset td:first-child code { white-space: nowrap; }
@media (max-width: 30em) {
  .md-typeset td:nth-child(3):last-child { min-width: 11rem; }
  .keys .md-typeset__scrollwrap { margin: 0; overflow: visible; }
  .keys .md-typeset__table { display: block; padding: 0; margin: 0; }
  .keys table:not([class]), .keys tbody, .keys tr { display: block; border: 0; }
  .keys thead { display: none; }
  .keys tr { padding: .5rem .2rem; border-top: .05rem solid var(--md-typeset-table-color); }
  .keys table:not([class]) td { display: inline; min-width: 0; padding: 0; border: 0; }
  .keys td { overflow-wrap: anywhere; }
  .keys td:first-child { font-weight: 700; margin-right: .4rem; }
  .keys td:first-child code { white-space: normal; }
  .keys table:not([class]) td:nth-child(3) { display: block; margin-top: .2rem; }
  .md-typeset td:nth-child(2) { min-width: 6rem; }
}
.md-typeset img[src$=".svg"] { background: #fff; border-radius: .3rem; padding: .4rem; }
"""

if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"
    build(target)
    print(f"wrote {target / 'index.html'}")
    print(f"its search needs a server: python -m http.server -d {target}")

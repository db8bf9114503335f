"""The guide names every loader and transform there is, and its examples are configurations."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from precise_shield.data.sources import SOURCES, SourceOptions
from precise_shield.data.transforms import TRANSFORMS, TransformOptions

GUIDE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_loader_and_transform_has_its_row():
    rows = set(re.findall(r"^\| `(\w+)` \|", GUIDE, re.M))
    assert {name for name in SOURCES if not name.startswith("sandbox")} | set(TRANSFORMS) == rows


def test_the_options_that_it_shows_exist():
    shown = re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)
    assert len(shown) == 3
    for text in shown:
        data = yaml.safe_load(text)
        parts = data if isinstance(data, list) else next(iter(data["data"].values()))
        for part in parts:
            if "source" in part:
                SourceOptions(path=part["path"], **part["options"])
            else:
                TransformOptions(**part["options"])
                assert part["name"] in TRANSFORMS

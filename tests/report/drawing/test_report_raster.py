"""Figures as pictures for papers."""

from __future__ import annotations

import io
import sys

import pytest
from PIL import Image

from precise_shield.core.errors import ConfigError
from precise_shield.report.drawing import raster
from precise_shield.report.drawing.standalone import standalone
from report.fixture import realistic_figures


def test_a_figure_is_a_picture_with_its_words_and_colours():
    pytest.importorskip("resvg_py", reason="the extra png is not installed")
    svg = standalone(realistic_figures().safer[0])
    assert "var(" not in svg
    with Image.open(io.BytesIO(raster.png_of(svg, 1.0))) as picture:
        drawn = picture.convert("RGB")
        assert f'width="{drawn.width}' in svg
        title = drawn.crop((0, 0, drawn.width // 2, 34)).convert("L")
    assert sum(1 for shade in title.tobytes() if shade < 128) > 200  # there are letters in it
    colours = {colour for _, colour in drawn.getcolors(1 << 20)}
    assert len({c for c in colours if max(c) - min(c) > 100}) > 3  # the ramp


def test_without_the_library_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    raster._installed.cache_clear()
    with pytest.raises(ConfigError, match=r"precise-shield\[png\]"):
        raster.png_of("<svg/>")
    raster._installed.cache_clear()

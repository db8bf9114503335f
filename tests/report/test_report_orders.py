"""Orders of a matrix, and figures as pictures for papers."""

from __future__ import annotations

import io
import sys
from itertools import pairwise

import pytest
from PIL import Image

from precise_shield.core.errors import ConfigError
from precise_shield.core.summary import SetFacts
from precise_shield.report import raster
from precise_shield.report.orders import by_similarity, orders_of
from precise_shield.report.standalone import standalone
from report.fixture import realistic_figures


def blocks(size, members):
    """Shares of 0.8 within a block and 0.1 between."""
    inside = [next(k for k, block in enumerate(members) if i in block) for i in range(size)]
    return [
        [None if i == j else 0.8 if inside[i] == inside[j] else 0.1 for j in range(size)]
        for i in range(size)
    ]


def test_similarity_puts_scattered_blocks_together():
    order = by_similarity(blocks(6, [{0, 2, 4}, {1, 3, 5}]))
    assert sorted(order) == list(range(6))
    assert {frozenset(order[:3]), frozenset(order[3:])} == {
        frozenset({0, 2, 4}),
        frozenset({1, 3, 5}),
    }
    chain = [[max(0.0, 1 - abs(i - j) / 4) for j in range(5)] for i in range(5)]
    mixed = [[chain[a][b] for b in (2, 0, 4, 1, 3)] for a in (2, 0, 4, 1, 3)]
    found = [(2, 0, 4, 1, 3)[k] for k in by_similarity(mixed)]
    assert sum(abs(a - b) for a, b in pairwise(found)) < 2 + 4 + 3 + 2


def test_every_order_is_one_of_all_rows_and_undefined_goes_last():
    def facts(layers):
        return SetFacts(
            name="s", size=sum(layers), by_layer=layers, split_half=None, shuffled_size=None
        )

    sets = [facts([4, 0]), None, facts([0, 9]), facts([1, 1])]
    found = orders_of(["sw", "ar", "en", "de"], sets, blocks(4, [{0, 1}, {2, 3}]), ["en"])
    assert all(sorted(order) == [0, 1, 2, 3] for order in found.values())
    assert found["by name"] == [1, 2, 3, 0]
    assert found["high-resource first"] == [2, 0, 1, 3]
    assert found["largest set first"] == [2, 0, 3, 1]
    assert found["deepest first, by mean layer"] == [2, 3, 0, 1]
    assert "high-resource first" not in orders_of(["sw"], [None], [[None]], ["en"])


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

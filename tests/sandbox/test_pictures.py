"""Promises of the pictures: equal arguments, equal pictures; different things look different."""

from __future__ import annotations

import numpy as np
import pytest

from precise_shield.core.errors import DataError
from precise_shield.sandbox.pictures import SIDE, _strokes, draw, draw_neutral, glyphs
from precise_shield.sandbox.world import actions, things


def _pixels(action: str, thing: str, seed: str) -> np.ndarray:
    return np.asarray(draw(action, thing, seed), dtype=float)


def test_every_action_and_object_has_a_drawing() -> None:
    assert set(glyphs()["actions"]) == set(actions())
    assert set(glyphs()["objects"]) == set(things())


def test_equal_arguments_draw_equal_pictures_and_seeds_vary_them() -> None:
    assert np.array_equal(_pixels("hide", "diary", "a"), _pixels("hide", "diary", "a"))
    assert not np.array_equal(_pixels("hide", "diary", "a"), _pixels("hide", "diary", "b"))
    assert np.array_equal(np.asarray(draw_neutral("a")), np.asarray(draw_neutral("a")))
    assert not np.array_equal(np.asarray(draw_neutral("a")), np.asarray(draw_neutral("b")))


def test_pictures_are_small_rgb_squares() -> None:
    for picture in (draw("hide", "diary", "a"), draw_neutral("a")):
        assert picture.mode == "RGB"
        assert picture.size == (SIDE, SIDE)


@pytest.mark.parametrize("kind", ["actions", "objects"])
def test_no_two_drawings_look_alike(kind: str) -> None:
    """Strokes on a bare grid, so that position and colour cannot tell them apart."""
    from PIL import Image, ImageDraw

    from precise_shield.sandbox.pictures import _glyph

    masks = {}
    for name, strokes in glyphs()[kind].items():
        image = Image.new("RGB", (SIDE * 4, SIDE * 4), (255, 255, 255))
        _glyph(ImageDraw.Draw(image), strokes, (4.0, 4.0, 40.0), (0, 0, 0), (255, 255, 255))
        masks[name] = np.asarray(image.convert("L")) < 128
    names = sorted(masks)
    for i, first in enumerate(names):
        assert masks[first].mean() > 0.03, first
        for second in names[:i]:
            both = (masks[first] | masks[second]).sum()
            assert (masks[first] ^ masks[second]).sum() / both > 0.2, (first, second)


@pytest.mark.parametrize("text", ["X 1 2 3 4", "P 1 2 3", "L 1 2"])
def test_a_broken_stroke_is_refused_with_its_glyph(text: str) -> None:
    with pytest.raises(DataError, match="glyph kettle"):
        _strokes("kettle", text)

"""The pictures of the toy kingdom: an action's badge beside an object, or a bare landscape."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml
from PIL import Image, ImageDraw

from precise_shield.core.errors import DataError

SIDE = 48
"""Pixels a side."""

_FINE = 4
"""Drawn so many times larger, then reduced, for smooth edges."""

Colour = tuple[int, int, int]
Stroke = tuple[str, tuple[float, ...]]


@cache
def glyphs() -> Mapping[str, Mapping[str, tuple[Stroke, ...]]]:
    """The strokes of each drawing: `actions` and `objects`, by name."""
    raw = yaml.safe_load((Path(__file__).parent / "glyphs.yaml").read_text(encoding="utf-8"))
    return {
        kind: {name: _strokes(name, text) for name, text in rows.items()}
        for kind, rows in raw.items()
    }


def _strokes(name: str, text: str) -> tuple[Stroke, ...]:
    strokes: list[Stroke] = []
    for part in text.split(";"):
        letter, *numbers = part.split()
        if letter not in "PpLlOoRr" or len(numbers) < 4 or len(numbers) % 2:
            raise DataError(
                f"glyph {name}: {part!r} is no stroke: a letter of PpLlOoRr and pairs of numbers."
            )
        strokes.append((letter, tuple(float(number) for number in numbers)))
    return tuple(strokes)


def draw(action: str, thing: str, seed: str) -> Image.Image:
    """A picture that asks for an action (white on a dark badge) on an object (in colour).

    Which side the badge is on, places, sizes, colours and the paper vary with `seed`; equal
    arguments give equal pictures. RGB, `SIDE` pixels a side.
    """
    rng = random.Random(f"{action}/{thing}/{seed}")
    paper = _colour(rng, (0.05, 0.25), (0.88, 1.0))
    image, pen = _canvas(paper)
    badge_first = rng.random() < 0.5
    badge, body = rng.uniform(18, 20.5), rng.uniform(18.5, 22)
    boxes = _places(rng, badge, body, badge_first)
    ink = _colour(rng, (0.5, 1.0), (0.15, 0.35))
    x, y = boxes[0]
    grown = [v * _FINE for v in (x - 1.5, y - 1.5, x + badge + 1.5, y + badge + 1.5)]
    pen.ellipse(grown, fill=ink)
    inset = badge * 0.14
    _glyph(
        pen,
        glyphs()["actions"][action],
        (x + inset, y + inset, badge - 2 * inset),
        (255, 255, 255),
        ink,
    )
    x, y = boxes[1]
    _glyph(
        pen,
        glyphs()["objects"][thing],
        (x, y, body),
        _colour(rng, (0.65, 1.0), (0.45, 0.75)),
        paper,
    )
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def draw_neutral(seed: str) -> Image.Image:
    """A landscape with sky, sun and hills: a picture that says nothing about any request."""
    rng = random.Random(f"neutral/{seed}")
    sky = _colour(rng, (0.1, 0.4), (0.85, 1.0), (0.5, 0.65))
    image, pen = _canvas(sky)
    size = SIDE * _FINE
    sun, x, y = (
        rng.uniform(0.12, 0.22) * size,
        rng.uniform(0.0, 0.8) * size,
        rng.uniform(0.0, 0.3) * size,
    )
    pen.ellipse((x, y, x + sun, y + sun), fill=_colour(rng, (0.5, 0.9), (0.9, 1.0), (0.08, 0.16)))
    for level in (0.45, 0.65):
        x, height = rng.uniform(-0.6, 0.4) * size, rng.uniform(level - 0.1, level + 0.1) * size
        hill = _colour(rng, (0.4, 0.8), (0.35, 0.75), (0.22, 0.45))
        pen.ellipse((x, height, x + rng.uniform(1.2, 2.0) * size, height + 2 * size), fill=hill)
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def _canvas(paper: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIDE * _FINE, SIDE * _FINE), paper)
    return image, ImageDraw.Draw(image)


def _places(
    rng: random.Random, badge: float, body: float, badge_first: bool
) -> list[tuple[float, float]]:
    """Upper left corners of badge and body, one in the left half and one in the right."""
    left, right = (badge, body) if badge_first else (body, badge)
    corners = [
        (rng.uniform(1.5, max(1.5, SIDE / 2 - left - 1.5)), rng.uniform(2, SIDE - left - 2)),
        (
            rng.uniform(SIDE / 2 + 1, max(SIDE / 2 + 1, SIDE - right - 2)),
            rng.uniform(2, SIDE - right - 2),
        ),
    ]
    return corners if badge_first else corners[::-1]


def _colour(
    rng: random.Random,
    saturation: tuple[float, float],
    value: tuple[float, float],
    hue: tuple[float, float] = (0.0, 1.0),
) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(
        rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)
    )
    return round(red * 255), round(green * 255), round(blue * 255)


def _glyph(
    pen: ImageDraw.ImageDraw,
    strokes: tuple[Stroke, ...],
    box: tuple[float, float, float],
    ink: Colour,
    paper: Colour,
) -> None:
    """Draw strokes into the square `(x, y, side)`, given in pixels of the final picture."""
    x, y, side = box
    for letter, numbers in strokes:
        fill = ink if letter.isupper() else paper
        points = [
            ((x if i % 2 == 0 else y) + number * side / 100) * _FINE
            for i, number in enumerate(numbers)
        ]
        width = max(1, round(11 * side / 100 * _FINE))
        match letter.upper():
            case "P":
                pen.polygon(points, fill=fill)
            case "L":
                pen.line(points, fill=fill, width=width, joint="curve")
            case "O":
                pen.ellipse(points, fill=fill)
            case _:
                pen.ellipse(points, outline=fill, width=width)

"""Figures as PNG, for slides and papers that take no SVG (extra `png`)."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

from PIL import Image

from precise_shield.core.errors import ConfigError
from precise_shield.core.store import readable_errors

SCALE = 3.0
"""Pixels of the picture for each pixel of the page: 300 dots an inch where a page has 100."""

SANS = ("Inter", "Noto Sans", "DejaVu Sans", "Liberation Sans", "Arial", "Helvetica", "Segoe UI")
SERIF = ("Source Serif 4", "Noto Serif", "DejaVu Serif", "Liberation Serif", "Georgia")


def png_of(svg: str, scale: float = SCALE) -> bytes:
    """A standalone figure as a PNG on white, in the first font of a list that is installed.

    Raises:
        ConfigError: `resvg_py` is not installed, or no font is.
    """
    sans = _installed(SANS)
    if sans is None:
        raise ConfigError(
            f"figures as PNG need one of the fonts {', '.join(SANS)} on this machine (Debian:"
            " fonts-noto-core). The SVGs in figures/ are the same pictures."
        )
    return _drawn(svg, scale, sans, _installed(SERIF) or sans)


def write_pngs(folder: Path, scale: float = SCALE) -> list[Path]:
    """Draw every `figures/*.svg` of a run folder as a PNG beside it.

    Raises:
        ConfigError: `resvg_py` is not installed, or no font is.
        StoreError: a file cannot be read or written.
    """
    written = []
    with readable_errors(folder):
        for path in sorted((folder / "figures").glob("*.svg")):
            out = path.with_suffix(".png")
            out.write_bytes(png_of(path.read_text(encoding="utf-8"), scale))
            written.append(out)
    return written


def _drawn(svg: str, scale: float, sans: str, serif: str) -> bytes:
    draw = _renderer()
    return bytes(
        draw(
            svg_string=svg,
            zoom=scale,
            background="#ffffff",
            font_family=sans,
            sans_serif_family=sans,
            serif_family=serif,
        )
    )


def _renderer() -> Callable[..., bytes]:
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise ConfigError(
            'figures as PNG need resvg_py: pip install "precise-shield[png]". The SVGs in figures/'
            " are the same pictures."
        ) from error
    return svg_to_bytes  # type: ignore[no-any-return, unused-ignore]


@cache
def _installed(families: tuple[str, ...]) -> str | None:
    """The first family in which a letter leaves ink."""
    for name in families:
        letter = (
            '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20">'
            f'<text x="2" y="16" font-family="{name}" font-size="16">M</text></svg>'
        )
        with Image.open(io.BytesIO(_drawn(letter, 1.0, name, name))) as picture:
            if min(picture.convert("L").tobytes()) < 128:
                return name
    return None

"""Text drawn into a picture: shaped, in reading direction, broken into lines.

Shaping (Arabic joining, Indic conjuncts, Thai marks) is Raqm's, with HarfBuzz, which Pillow's
wheels bring. A line that mixes scripts is drawn run by run, each with its script's font; in a
paragraph from right to left the runs are set from right to left, one level of embedding deep.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont, features

from precise_shield.core.errors import DataError
from precise_shield.data.typeset.fonts import font_file, load_font
from precise_shield.data.typeset.lines import Run, runs, wrap

LINE = 1.45
"""Line height in font sizes: room for stacked marks."""

_LEAST = 12


class Pen:
    """Draws lines of one language at one size."""

    def __init__(self, language: str, size: int, fonts: Mapping[str, str]) -> None:
        if not features.check("raqm"):
            raise DataError(
                "this Pillow has no Raqm, so Arabic and Indic text would be drawn wrongly; install"
                " Pillow's own wheel (pip install --force-reinstall pillow)"
            )
        self.language, self.size, self.fonts = language, size, fonts

    def font(self, run: Run) -> ImageFont.FreeTypeFont:
        """The font of a run.

        Raises:
            DataError: there is none, or it lacks a character.
        """
        font = load_font(font_file(run.script, self.fonts), self.size, self.language)
        for ch in run.text:
            if ch.isalnum() and not _drawn(font, ch):
                raise DataError(
                    f"the font {font.getname()[0]} has no {ch!r} (U+{ord(ch):04X}); name another"
                    f" file with fonts={{{run.script.lower()}: FILE}}"
                )
        return font

    def width(self, line: str) -> float:
        """How wide a line is, in pixels."""
        return sum(self.font(run).getlength(run.text, direction=_way(run)) for run in runs(line))

    def draw(
        self, canvas: ImageDraw.ImageDraw, line: str, x: float, y: float, *, rtl: bool
    ) -> None:
        """Draw a line of a paragraph with its left end at x and its baseline at y."""
        pieces = runs(line, rtl=rtl)
        for run in reversed(pieces) if rtl else pieces:
            font = self.font(run)
            canvas.text((x, y), run.text, fill="black", font=font, anchor="ls", direction=_way(run))
            x += font.getlength(run.text, direction=_way(run))


def _way(run: Run) -> str:
    return "rtl" if run.rtl else "ltr"


@lru_cache(maxsize=65536)
def _drawn(font: ImageFont.FreeTypeFont, ch: str) -> bool:
    """Whether a font has a character of its own: what it lacks looks like what no font has."""
    return bytes(font.getmask(ch)) != bytes(font.getmask("\U0010fffd"))


def text_picture(
    text: str,
    language: str,
    *,
    width: int = 768,
    height: int | None = None,
    size: int = 48,
    fonts: Mapping[str, str] | None = None,
) -> Image.Image:
    """Draw a text black on white. Without a height the picture is as high as the text.

    With one the size is lowered until the text fits.

    Raises:
        DataError: no font draws a script of it, or it does not fit at the smallest size.
    """
    margin = width // 16
    while True:
        pen = Pen(language, size, fonts or {})
        lines = wrap(text, lambda line: pen.width(line) <= width - 2 * margin)  # noqa: B023
        needed = round(len(lines) * size * LINE) + 2 * margin
        if height is None or needed <= height:
            break
        if size <= _LEAST:
            raise DataError(
                f"a text of {len(text)} characters does not fit {width} x {height} pixels"
            )
        size = max(_LEAST, round(size * 0.88))
    image = Image.new("RGB", (width, height or needed), "white")
    canvas = ImageDraw.Draw(image)
    for number, (line, rtl) in enumerate(lines):
        x = width - margin - pen.width(line) if rtl else float(margin)
        pen.draw(canvas, line, x, margin + (number + 0.85) * size * LINE, rtl=rtl)
    return image


def under(picture: Image.Image, caption: Image.Image) -> Image.Image:
    """Set a caption under a picture, both as wide as the caption."""
    high = round(picture.height * caption.width / picture.width)
    both = Image.new("RGB", (caption.width, high + caption.height), "white")
    both.paste(picture.resize((caption.width, high), Image.Resampling.LANCZOS), (0, 0))
    both.paste(caption, (0, high))
    return both

"""Pictures opened as what they are: files from strangers."""

from __future__ import annotations

import struct
import warnings
import zlib
from base64 import b64encode
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from precise_shield.core.errors import DataError

MAX_PIXELS = 40_000_000
"""Default bound on width times height; decoded, that is 120 MB."""

MAX_BYTES = 64 * 2**20
"""Bound on the size of a picture file."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""Only these decoders are ever tried."""

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError)
"""What Pillow's decoders raise on damaged files; `OSError` is the truncated one."""


def inside(folder: Path, name: str) -> Path:
    """Resolve a picture's name, as a data file gives it, to a path within the data's folder.

    Links are followed first, so that none can lead out either.

    Raises:
        DataError: the name is absolute, leads out of the folder, or is no path at all.
    """
    try:
        target = (folder / name).resolve()
        home = folder.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"image {name!r:.80} is no path ({error})") from error
    if Path(name).is_absolute() or "\\" in name or not target.is_relative_to(home):
        raise DataError(
            f"image {name!r:.80} leads out of the data's folder; give a path inside, with /"
        )
    return target


def open_image(path: Path | str, max_pixels: int | None = None) -> Image.Image:
    """Decode a picture to RGB, upright, transparent parts on white.

    The header is checked before a pixel is decoded, so a decompression bomb costs nothing.
    Of an animation the first frame is taken. `max_pixels` defaults to `MAX_PIXELS`.

    Raises:
        DataError: no regular file, too large, a format not in `FORMATS`, or damaged.
    """
    return _opened(Path(path), max_pixels, whole=True).convert("RGB")


def data_uri(path: Path | str) -> str:
    """A picture as a `data:` address: the pixels that a local model would see, as a PNG.

    Raises:
        DataError: as `open_image`.
    """
    whole = BytesIO()
    open_image(path).save(whole, "PNG")
    return "data:image/png;base64," + b64encode(whole.getvalue()).decode("ascii")


def peek_image(path: Path | str, max_pixels: int | None = None) -> None:
    """Check what a picture's header says, without decoding it; for many pictures at once.

    Raises:
        DataError: as `open_image`, but for damage behind the header.
    """
    _opened(Path(path), max_pixels, whole=False)


def _opened(path: Path, max_pixels: int | None, *, whole: bool) -> Image.Image:
    try:
        if not path.is_file():
            raise DataError(f"picture {path} is no regular file. Add it, or correct its path.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"picture {path} has {size} bytes, more than {MAX_BYTES}. Shrink it.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _decode(path, MAX_PIXELS if max_pixels is None else max_pixels, whole)
    except Image.DecompressionBombError as error:
        raise DataError(f"picture {path} is a decompression bomb ({error}).") from error
    except (*_BROKEN, OverflowError, struct.error, zlib.error) as error:
        raise DataError(
            f"picture {path} is damaged, cut short, or none of {', '.join(FORMATS)} ({error})."
            " Replace the file."
        ) from error


def _decode(path: Path, max_pixels: int, whole: bool) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise DataError(
                f"picture {path} is {width} x {height}, more than {max_pixels} pixels."
                " Shrink it, or raise the bound."
            )
        if not whole:
            return image
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return upright.convert("RGB")

"""Pictures come from strangers: what opens is small, whole and RGB, all else is a sentence."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.making import picture
from precise_shield.core.errors import DataError
from precise_shield.core.images import open_image


def png_header(width, height):
    """A well-formed PNG that promises more pixels than it has."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_pixels_come_back_as_rgb(tmp_path):
    image = open_image(picture(tmp_path / "a.png", colour="red"))
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (6, 4), (255, 0, 0))


def test_transparent_parts_are_white_and_hidden_colours_stay_hidden(tmp_path):
    layer = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    layer.putpixel((1, 0), (0, 0, 255, 255))
    layer.save(tmp_path / "a.png")
    image = open_image(tmp_path / "a.png")
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]
    assert layer.convert("RGB").getpixel((0, 0)) == (0, 0, 0)


def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = picture(tmp_path / "a.jpg", size=(8, 4), exif=exif)
    assert open_image(path).size == (4, 8)
    assert Image.open(path).size == (8, 4)


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 10_000)])
def test_a_bomb_is_refused_by_its_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(DataError, match=r"bomb|more than"):
        open_image(path)


def test_the_bound_on_pixels_is_exact(tmp_path):
    path = picture(tmp_path / "a.png", size=(10, 10))
    assert open_image(path, max_pixels=100).size == (10, 10)
    with pytest.raises(DataError, match="10 x 10, more than 99 pixels"):
        open_image(path, max_pixels=99)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "bmp"])
def test_a_truncated_file_is_refused(tmp_path, kind):
    path = picture(tmp_path / f"a.{kind}", size=(64, 64))
    assert open_image(path).size == (64, 64)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    with pytest.raises(DataError, match="damaged, cut short"):
        open_image(path)


def test_formats_with_riskier_decoders_are_not_tried(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", format="TIFF")
    with pytest.raises(DataError, match="none of PNG"):
        open_image(tmp_path / "a.png")


@settings(max_examples=150, deadline=None)
@given(
    place=st.floats(0, 0.999),
    value=st.integers(0, 255),
    kind=st.sampled_from(["png", "jpg", "gif", "webp"]),
)
def test_a_flipped_byte_gives_a_picture_or_a_sentence(tmp_path_factory, place, value, kind):
    path = picture(tmp_path_factory.mktemp("flip") / f"a.{kind}", size=(20, 20))
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] = value
    path.write_bytes(bytes(data))
    try:
        said = open_image(path, max_pixels=10_000).mode
    except DataError as error:
        said = str(error)
    assert said == "RGB" or str(path) in said

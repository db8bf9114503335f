"""Which font file draws a script: named by the user, of a pip package, or of the system."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from precise_shield.core.errors import DataError

PIP = 'pip install "precise-shield[fonts]"'


@dataclass(frozen=True)
class FontChoice:
    """Where a script's font may be."""

    package: str
    """pip package that holds it, as a module, and the file in it."""

    file: str
    system: tuple[str, ...]
    """File names in the system's font folders, the better first."""

    debian: str = "fonts-noto-core"


_LATIN = FontChoice(
    "fontpkg_noto_sans",
    "files/NotoSans[wdth,wght].ttf",
    ("NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial Unicode.ttf"),
)
_CJK = FontChoice(
    "noto_cjk_sans_otc",
    "NotoSansCJK-Regular.ttc",
    ("NotoSansCJK-Regular.ttc", "NotoSerifCJK-Regular.ttc"),
    "fonts-noto-cjk",
)
FONTS: Mapping[str, FontChoice] = {
    "LATIN": _LATIN,
    "CYRILLIC": _LATIN,
    "GREEK": _LATIN,
    "ARABIC": FontChoice(
        "fontpkg_noto_sans_arabic",
        "files/NotoSansArabic[wdth,wght].ttf",
        ("NotoSansArabic-Regular.ttf", "NotoNaskhArabic-Regular.ttf", "DejaVuSans.ttf"),
    ),
    "DEVANAGARI": FontChoice(
        "fontpkg_noto_sans_devanagari",
        "files/NotoSansDevanagari[wdth,wght].ttf",
        ("NotoSansDevanagari-Regular.ttf",),
    ),
    "BENGALI": FontChoice(
        "fontpkg_hind_siliguri",
        "files/HindSiliguri-Regular.ttf",
        ("NotoSansBengali-Regular.ttf",),
    ),
    "TELUGU": FontChoice(
        "fontpkg_noto_sans_telugu",
        "files/NotoSansTelugu[wdth,wght].ttf",
        ("NotoSansTelugu-Regular.ttf",),
    ),
    "THAI": FontChoice(
        "fontpkg_noto_sans_thai",
        "files/NotoSansThai[wdth,wght].ttf",
        ("NotoSansThai-Regular.ttf",),
    ),
    "CJK": _CJK,
    "HIRAGANA": _CJK,
    "KATAKANA": _CJK,
    "HANGUL": _CJK,
}
"""By script, as `data.text.script_of` names them; others are looked for as system Noto Sans."""

_FACES = {"ja": 0, "ko": 1, "zh": 2, "zh-tw": 3, "zh-hant": 3, "zh-hk": 4}
"""Which face of Noto Sans CJK: one character is drawn differently in each country."""

_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "C:/Windows/Fonts",
)


def font_file(script: str, given: Mapping[str, str]) -> Path:
    """Find the font of a script; `given` maps scripts, or `default`, to files of the user.

    Raises:
        DataError: a given file is missing, or there is no font for the script.
    """
    named = given.get(script.lower()) or given.get(script) or given.get("default")
    if named is not None:
        path = Path(named).expanduser()
        if not path.is_file():
            raise DataError(f"no font file at {path}, given for {script.title()}")
        return path
    found = _installed(script)
    if found is None:
        debian = FONTS[script].debian if script in FONTS else "fonts-noto-core"
        raise DataError(
            f"no font draws {script.title()}: {PIP}, or on Debian apt-get install {debian}, or name"
            f" a file with fonts={{{script.lower()}: FILE}}"
        )
    return found


@cache
def _installed(script: str) -> Path | None:
    choice = FONTS.get(script)
    names = choice.system if choice else (f"NotoSans{script.title()}-Regular.ttf",)
    spec = find_spec(choice.package) if choice else None
    for place in spec.submodule_search_locations or () if spec else ():
        path = Path(place) / choice.file if choice else Path(place)
        if path.is_file():
            return path
    system = _system_fonts()
    return next((system[name] for name in names if name in system), None)


@cache
def _system_fonts() -> dict[str, Path]:
    """Font files of the system by their names."""
    found: dict[str, Path] = {}
    for folder in _FOLDERS:
        for place, _, names in os.walk(Path(folder).expanduser()):
            for name in names:
                if name.endswith((".ttf", ".otf", ".ttc")):
                    found.setdefault(name, Path(place) / name)
    return found


@lru_cache(maxsize=256)
def load_font(path: Path, size: int, language: str) -> ImageFont.FreeTypeFont:
    """Open a font at a size, with Raqm for shaping.

    Raises:
        DataError: the file is no font.
    """
    face = _FACES.get(language, _FACES.get(language.split("-")[0], 0))
    index = face if path.suffix == ".ttc" and "CJK" in path.name else 0
    try:
        return ImageFont.truetype(str(path), size, index=index, layout_engine=ImageFont.Layout.RAQM)
    except OSError as error:
        raise DataError(f"{path} is no font that can be read ({error})") from error

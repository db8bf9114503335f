"""How the report says numbers, names and foreign text."""

from __future__ import annotations

import unicodedata
from math import isfinite

UNDEFINED = "undefined"
MINUS = "−"

HIGH_RESOURCE = frozenset({"en", "zh"})
"""The languages that Precise Shield counts as high-resource (HRL)."""

_LANGUAGES = {
    "ar": "Arabic", "bn": "Bengali", "de": "German", "en": "English", "es": "Spanish",
    "fi": "Finnish", "fr": "French", "it": "Italian", "ja": "Japanese", "jv": "Javanese",
    "ko": "Korean", "no": "Norwegian", "nb": "Norwegian", "pt": "Portuguese", "ru": "Russian",
    "sw": "Swahili", "th": "Thai", "tr": "Turkish", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip

_MODALITIES = {
    "text": "text",
    "text_dominant": "text-dominant",
    "image_dominant": "image-dominant",
}

_KEPT = frozenset("\n\t\u200c\u200d")
"""Newline, tab and the two joiners that several scripts need."""

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def visible(text: str) -> str:
    """Show control, bidi, invisible and unpaired characters as `⟦U+202E⟧`.

    A bidi override can make a line read as something else, a lone surrogate cannot even be
    written as UTF-8. Windows line ends become newlines; the joiners that scripts need stay.
    """
    text = text.replace("\r\n", "\n")
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"⟦U+{ord(sign):04X}⟧"
        if sign not in _KEPT and unicodedata.category(sign) in _HIDDEN
        else sign
        for sign in text
    )


def cut(text: str, limit: int) -> tuple[str, int]:
    """The first `limit` characters, and how many were left out."""
    return text[:limit], max(0, len(text) - limit)


def shorten(text: str, limit: int) -> str:
    """A label of at most `limit` characters, an ellipsis where it was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def known(*values: float | None) -> bool:
    """Whether every value is a finite number."""
    return all(value is not None and isfinite(value) for value in values)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as `82.4%`. What is neither 0 nor 1 is never printed as 0 % or 100 %."""
    if value is None or not isfinite(value):
        return UNDEFINED
    step = 10.0 ** -(digits + 2)
    if 0 < value < step / 2:
        return f"<{100 * step:.{digits}f}%"
    if 1 - step / 2 < value < 1:
        return f">{100 * (1 - step):.{digits}f}%"
    return f"{100 * value:.{digits}f}%"


def span(low: float | None, high: float | None) -> str:
    """An interval of shares as `[71, 90]`, in percent; empty when undefined."""
    if low is None or high is None or not (isfinite(low) and isfinite(high)):
        return ""
    return f"[{signed(100 * low, 0)}, {signed(100 * high, 0)}]"


def signed(value: float, digits: int = 1, plus: bool = False) -> str:
    """A number with a real minus sign, with a plus sign if asked, and no minus zero."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (MINUS if value < 0 else "+" if plus else "") + text


def number(value: float | None, digits: int = 2) -> str:
    """A plain number, or `undefined`."""
    return UNDEFINED if value is None or not isfinite(value) else signed(value, digits)


def small(value: float | None) -> str:
    """A small quantity with three significant digits, or `undefined`."""
    return UNDEFINED if value is None or not isfinite(value) else f"{value:.3g}"


def points(value: float | None) -> str:
    """A difference of shares as `+3.2`, in percentage points."""
    if value is None or not isfinite(value):
        return UNDEFINED
    return signed(100 * value, 1, plus=True)


def count(value: int) -> str:
    """An integer with thousands separated: `6,345`."""
    return f"{value:,}"


def tiny_share(part: int, whole: int) -> str:
    """A share of parameters with two significant digits: `0.028%`."""
    if not whole:
        return UNDEFINED
    return f"{100 * part / whole:.2g}%" if part else "0%"


def p_text(value: float | None) -> str:
    """A p-value: three digits, or `<0.001`."""
    if value is None or not isfinite(value):
        return UNDEFINED
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """`8.4 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds is None or not isfinite(seconds):
        return UNDEFINED
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    if seconds < 3600:
        return f"{minutes} min {int(seconds % 60):02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def language_name(code: str | None) -> str:
    """`Arabic` for `ar`; a code without a name in the table stays as it is."""
    return "all languages" if code is None else _LANGUAGES.get(code, code)


def modality_name(modality: str | None) -> str:
    """The papers' word for where the risk is."""
    return "all modalities" if modality is None else _MODALITIES.get(modality, modality)


def named_modalities(words: str) -> str:
    """A sentence with every modality in it called by the papers' word."""
    for code, name in _MODALITIES.items():
        words = words.replace(code, name)
    return words


def is_high_resource(code: str) -> bool:
    """Whether the papers count this language as high-resource."""
    return code.split("-")[0] in HIGH_RESOURCE


def listed(words: list[str], limit: int = 4) -> str:
    """`a, b and c`; beyond `limit`, how many more."""
    if not words:
        return "none"
    if len(words) > limit:
        return f"{', '.join(words[:limit])} and {len(words) - limit} more"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

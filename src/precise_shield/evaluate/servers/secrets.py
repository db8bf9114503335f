"""Keeping a key out of what a server says before anybody sees or stores it."""

from __future__ import annotations

import re
from base64 import b64encode
from urllib.parse import quote

HIDDEN = "***"

LEAST = 8
"""Characters of a key that is looked for in a model's own words: keys such as `EMPTY`, which local
servers ask for, are words."""

_HEADER = re.compile(
    r"""((?:proxy-)?authorization\\?["']?\s*[:=]\s*\\?["']?)[^"'\\,;}\]\r\n]+""", re.IGNORECASE
)
_BEARER = re.compile(r"\b(bearer\s+)[\w.~+/=-]{6,}", re.IGNORECASE)


def without_key(text: str, key: str) -> str:
    """Hide a key in a text: as it is, and as JSON, URLs and basic authentication write it."""
    if not key:
        return text
    written = {key, quote(key, safe=""), quote(key)}
    for head in ("", "Bearer ", "user:", ":"):
        written.add(b64encode(f"{head}{key}".encode()).decode())
    for each in sorted(written, key=len, reverse=True):
        signs = (re.escape(sign) if sign.isalnum() else rf"\\*{re.escape(sign)}" for sign in each)
        text = re.sub("".join(signs), HIDDEN, text)
    return text


def reply_without_key(text: str, key: str) -> str:
    """A model's own words without the key; a key too short to be one is left alone."""
    return without_key(text, key) if len(key) >= LEAST else text


def shown(text: str, key: str, most: int) -> str:
    """A server's words on one line, shortened, without the key or any `Authorization` header.

    It is hidden before it is shortened, or half a key would be left at the end.
    """
    text = _HEADER.sub(rf"\1{HIDDEN}", without_key(text, key))
    return " ".join(_BEARER.sub(rf"\1{HIDDEN}", text).split())[:most]

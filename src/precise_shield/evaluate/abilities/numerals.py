"""Numbers in running text, in the digits and with the marks of every script."""

from __future__ import annotations

import re

_NUMBER = re.compile(
    r"(?:(?<!\w)[-−])?(?:\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)|\d+)"
    r"(?:[.,'’\u066b\u066c\u060c．，]\d+)*"
    r"(?:\s?[万萬億亿千百만억천백]+(?![米克瓦卡]))?"
)
"""Groups of digits are joined by a space only where they are groups of three; 千克 is a kilo."""

_MARKS = str.maketrans(
    {"−": "-", "\u066c": ",", "\u066b": ".", "\u060c": ",", "，": ",", "．": "."}
)

_POINT = frozenset({"en", "zh", "ja", "ko", "th", "hi", "bn", "te", "ne", "ta", "sw", "yo", "my"})
"""Languages whose decimal mark is the point, so that a single one never groups digits."""

_TIMES = {
    **dict.fromkeys("百백", 10**2),
    **dict.fromkeys("千천", 10**3),
    **dict.fromkeys("万萬만", 10**4),
    **dict.fromkeys("億亿억", 10**8),
}
_DIGITS = {ch: n for n, ch in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "兩": 2}
_SMALL = {"十": 10, "百": 100, "千": 1000}
_HAN = re.compile(rf"[{''.join(_DIGITS)}十百千万萬億亿]+")


def numbers(text: str, language: str | None = None) -> list[float]:
    """Every number in a text, in order.

    Digits of every script count. A comma or point before exactly three digits groups them, unless
    it is the only one and the number starts with 0, or it is a point and `language` writes decimals
    with one; a space groups them before exactly three. 3万 and 1.2억 are multiplied out. Where
    there are no digits and the language is Chinese or Japanese, Han numerals are read: 四十二.
    """
    found = [value for raw in _NUMBER.findall(text) if (value := _value(raw, language)) is not None]
    if found or language not in ("zh", "ja"):
        return found
    return [value for raw in _HAN.findall(text) if (value := _han(raw)) is not None]


def number(text: str, language: str | None = None) -> float | None:
    """The last number in a text; None if there is none. See `numbers`."""
    found = numbers(text, language)
    return found[-1] if found else None


def _value(raw: str, language: str | None) -> float | None:
    times = 1
    while raw and raw[-1] in _TIMES:
        raw, times = raw[:-1].rstrip(), times * _TIMES[raw[-1]]
    raw = "".join(raw.translate(_MARKS).split()).replace("'", "").replace("’", "")
    sign, raw = ("-", raw[1:]) if raw.startswith("-") else ("", raw)
    marks = re.findall(r"[.,]", raw)
    if len(set(marks)) == 2:
        last = marks[-1]
        raw = raw.replace("," if last == "." else ".", "").replace(",", ".")
    elif marks and all(len(part) == 3 for part in re.split(r"[.,]", raw)[1:]):
        decimal = len(marks) == 1 and (raw.startswith("0") or _decimal(marks[0], language))
        raw = raw.replace(",", ".") if decimal else re.sub(r"[.,]", "", raw)
    else:
        raw = raw.replace(",", ".") if len(marks) == 1 else re.sub(r"[.,]", "", raw)
    try:
        return float(sign + raw) * times
    except ValueError:
        return None


def _decimal(mark: str, language: str | None) -> bool:
    return mark == "." and language in _POINT


def _han(raw: str) -> float | None:
    """A Han numeral by its places: 三千二百 is 3,200, 二〇二四 is 2,024; None if it is none."""
    if all(ch in _DIGITS for ch in raw):
        return float("".join(str(_DIGITS[ch]) for ch in raw))
    total = part = digit = 0
    for ch in raw:
        if ch in _DIGITS:
            digit = _DIGITS[ch]
        elif ch in _SMALL:
            part, digit = part + (digit or 1) * _SMALL[ch], 0
        else:
            total, part, digit = total + (part + digit or 1) * _TIMES[ch], 0, 0
    return float(total + part + digit)

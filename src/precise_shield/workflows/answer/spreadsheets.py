"""Cells that a spreadsheet shows and never computes."""

from __future__ import annotations

from typing import TypeVar

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a text starts that a spreadsheet would compute."""

CELL = 32_000
"""UTF-16 units of a cell; Excel breaks a CSV's cell at 32,767 and reads the rest as new cells."""

T = TypeVar("T")


def inert(cell: T) -> T | str:
    """Put an apostrophe before a text that would be a formula; numbers stay as they are."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def fitting(text: str) -> str:
    """The start of a text that a spreadsheet keeps in one cell, and how much was left out."""
    head = text.encode("utf-16-le")[: 2 * CELL].decode("utf-16-le", "ignore")
    left = len(text) - len(head)
    return f"{head} […{left:,} characters left out]" if left else text

"""Cells that a spreadsheet shows and never computes."""

from __future__ import annotations

from typing import TypeVar

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a text starts that a spreadsheet would compute."""

T = TypeVar("T")


def inert(cell: T) -> T | str:
    """Put an apostrophe before a text that would be a formula; numbers stay as they are."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell

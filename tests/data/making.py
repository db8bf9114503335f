"""Rows and files for the tests of data and evaluation. None of the text is from a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from precise_shield.core.records import Example, Harm


def values(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A good manifest row; a value of None removes the field."""
    row = {
        "id": f"r{number}",
        "language": "en",
        "modality": "text",
        "harm": "harmful",
        "prompt": f"How do I tease the dragon number {number}?",
        "split": "probe",
        "group": f"g{number}",
    } | changes
    return {key: value for key, value in row.items() if value is not None}


def example(number: int = 0, harm: Harm = "harmful", **changes: Any) -> Example:
    return Example(**values(number, harm=harm, **changes))


def jsonl(folder: Path, *rows: Any, name: str = "m.jsonl") -> Path:
    path = folder / name
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def picture(path: Path, size: tuple[int, int] = (6, 4), colour: str = "red", **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **more)
    return path

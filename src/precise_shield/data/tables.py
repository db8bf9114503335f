"""Files of published data sets, with clear words when one is not as published."""

from __future__ import annotations

import ast
import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

from precise_shield.core.errors import DataError

Row = dict[str, Any]


def find(path: Path, name: str, origin: str) -> Path:
    """Find the file `name` at `path`, which is the file (however named) or its folder.

    Raises:
        DataError: it is not there; the message says where to get it.
    """
    file = path / name if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"no file at {file}. Download {name} of {origin} and give its path.")
    return file


def read_table(file: Path, needed: tuple[str, ...], delimiter: str = ",") -> list[tuple[int, Row]]:
    """Read a CSV file with a header: each record's number (the header is 1) and its values.

    Raises:
        DataError: it cannot be read, is no CSV, lacks a needed column, or a record's length
            differs from the header's.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
        records = list(csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is no UTF-8 CSV ({error}). Download it again.") from error
    header = records[0] if records else []
    missing = [name for name in needed if name not in header]
    if missing:
        raise DataError(f"{file} lacks the columns {', '.join(missing)}; it has {header}")
    rows: list[tuple[int, Row]] = []
    for number, record in enumerate(records[1:], 2):
        if record and len(record) != len(header):
            raise DataError(f"{file}, record {number}: {len(record)} fields, header {len(header)}")
        if record:
            rows.append((number, dict(zip(header, record, strict=True))))
    return rows


def read_text(file: Path) -> str:
    """Read a text file.

    Raises:
        DataError: it cannot be read or is no UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is no UTF-8 text ({error}). Download it again.") from error


def listed(text: object) -> str | None:
    """Read a Python list of texts, as tables print them: "['Theft', 'Fraud']" is `Theft; Fraud`.

    Repeated ones are named once. Other text is kept; None when nothing is left.
    """
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        tags = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return "; ".join(dict.fromkeys(map(str, tags))) or None if isinstance(tags, list) else text


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it cannot be read or is no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON ({error!s:.100}). Download it again.") from error


def read_objects(file: Path, needed: tuple[str, ...]) -> list[tuple[str, Row]]:
    """Read a JSON file of objects, in a list or under names: each one's name and fields.

    In a list the name is the place, counted from 0. Fields that are `needed` are there and text.

    Raises:
        DataError: it is no such file, or an object lacks a needed text.
    """
    data = read_json(file)
    pairs = list(data.items()) if isinstance(data, dict) else None
    if isinstance(data, list):
        pairs = [(str(place), row) for place, row in enumerate(data)]
    if pairs is None:
        raise DataError(f"{file} is no JSON list or object of objects. Download it again.")
    return [(name, _with(file, name, row, needed)) for name, row in pairs]


def read_lines(file: Path, needed: tuple[str, ...] = ()) -> list[tuple[int, Row]]:
    """Read a JSON Lines file: each object's line and fields.

    Raises:
        DataError: it cannot be read, a line is no JSON object, or lacks a needed text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
        rows = [(at, json.loads(line)) for at, line in enumerate(lines, 1) if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON Lines ({error!s:.100}). Download it again.") from error
    return [(at, _with(file, f"line {at}", row, needed)) for at, row in rows]


def _with(file: Path, name: str, row: Any, needed: tuple[str, ...]) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{file}: {name!r:.40} is no object. Is it the published file?")
    if lacking := [key for key in needed if not isinstance(row.get(key), str)]:
        said = f"lacks the text {', '.join(lacking)}"
        raise DataError(f"{file}: {name!r:.40} {said}. Is it the published file?")
    return row

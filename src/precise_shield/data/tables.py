"""CSV files of published data sets, with clear words when one is not as published."""

from __future__ import annotations

import csv
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


def read_table(file: Path, needed: tuple[str, ...]) -> list[tuple[int, Row]]:
    """Read a CSV file with a header: each record's number (the header is 1) and its values.

    Raises:
        DataError: it cannot be read, is no CSV, lacks a needed column, or a record's length
            differs from the header's.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
        records = list(csv.reader(StringIO(text, newline=""), strict=True))
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

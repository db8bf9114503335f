"""The three file formats of a manifest, read into rows of plain values with their numbers.

Rows count from 1 as an editor or a spreadsheet shows them: in JSON Lines by line, in CSV by record
with the header as row 1, in Parquet by row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from io import StringIO
from typing import Any

Values = dict[str, Any]
Numbered = tuple[int | None, Values | str]
"""A row's number and its values, or a sentence on why it has none; without a number the sentence
is about the file, and nothing after it was read."""

Reader = Callable[[bytes, tuple[str, ...]], Iterator[Numbered]]
"""Bytes of a file and the columns that it must have, where it has columns at all."""


def _jsonl(data: bytes, required: tuple[str, ...]) -> Iterator[Numbered]:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if other := _other_encoding(data, lines):
        yield None, other
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"), object_pairs_hook=_once)
        except UnicodeDecodeError as error:
            yield number, f"is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        except (ValueError, RecursionError) as error:
            yield number, f"is no JSON object ({error})"
        else:
            yield number, row if isinstance(row, dict) else "is no JSON object"


def _other_encoding(data: bytes, lines: list[bytes]) -> str | None:
    """That a file is in another encoding as a whole: row by row, only its English would be left."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is UTF-16, not UTF-8. Save it as UTF-8."
    foreign = [line for line in lines if not line.isascii()]
    if len(foreign) > 1 and not any(map(_is_utf8, foreign)):
        return (
            f"is not UTF-8: none of its {len(foreign)} rows with other than ASCII characters is."
            " Save it as UTF-8."
        )
    return None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _once(pairs: list[tuple[str, Any]]) -> Values:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a field is given twice")
    return row


def _csv(data: bytes, required: tuple[str, ...]) -> Iterator[Numbered]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield None, f"is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
        return
    records = csv.reader(StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        number += 1
        try:
            record = next(records, None)
        except csv.Error as error:
            yield None, f"record {number} breaks the CSV format ({error}); nothing after it is read"
            return
        if record is None:
            return
        if header is None:
            header = record
            if problem := _bad_columns(header, required, "the header"):
                yield None, problem
                return
        elif record and len(record) != len(header):
            yield number, f"has {len(record)} fields, the header {len(header)}"
        elif record:
            yield number, {key: value for key, value in zip(header, record, strict=True) if value}


def _bad_columns(columns: list[str], required: tuple[str, ...], what: str) -> str | None:
    if len(set(columns)) < len(columns):
        return f"{what} names a column twice"
    missing = [name for name in required if name not in columns]
    return f"{what} lacks {', '.join(missing)}" if missing else None


def _parquet(data: bytes, required: tuple[str, ...]) -> Iterator[Numbered]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        yield None, 'needs pyarrow: pip install "precise-shield[parquet]", or save it as .jsonl'
        return
    number = 0
    try:
        with parquet.ParquetFile(arrow.BufferReader(data)) as file:
            if problem := _bad_columns(file.schema_arrow.names, required, "the schema"):
                yield None, problem
                return
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, {key: value for key, value in row.items() if value == value}
    except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        yield None, f"is no Parquet that can be read after row {number} ({reason:.200})"


READERS: Mapping[str, Reader] = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
"""By the end of the file's name, in lower case."""

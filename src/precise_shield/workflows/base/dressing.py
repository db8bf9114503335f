"""Transforms of a manifest, from a configuration's options or from one file to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from precise_shield.core.errors import ConfigError
from precise_shield.core.records import Example
from precise_shield.data.manifest import Loaded, OnBadRow, load
from precise_shield.data.transforms import TransformOptions, save_manifest, transformed


def apply_transform(
    name: str,
    rows: Sequence[Example],
    options: Mapping[str, Any],
    folder: Path,
    on_bad_row: OnBadRow,
) -> Loaded:
    """Dress rows anew under options as a configuration gives them.

    Raises:
        ConfigError: no such transform or option.
        DataError: a row cannot be transformed.
    """
    try:
        given = TransformOptions.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"transform {name!r}, option {place}: {first['msg'].lower()}.") from error
    return transformed(name, rows, given, folder, on_bad_row)


def transform_file(
    name: str,
    source: Path,
    out: Path,
    options: Mapping[str, Any],
    on_bad_row: OnBadRow = "stop",
) -> Loaded:
    """Read a manifest, dress its rows anew, and write another one, its pictures beside it.

    Raises:
        ConfigError: no such transform or option, or `out` exists.
        DataError: a row is bad or cannot be transformed.
    """
    if out.exists() or out.suffix != ".jsonl":
        raise ConfigError(f"{out} exists or does not end in .jsonl; name a new .jsonl file.")
    read = load(source, on_bad_row)
    done = apply_transform(
        name, read.examples, options, out.parent / f"{out.stem}_images", on_bad_row
    )
    save_manifest(done.examples, out)
    return Loaded(done.examples, [*read.dropped, *done.dropped])

"""Tensors and a JSON header in one safetensors file: how every kind of delta is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from precise_shield.core.errors import DataError, StoreError


def save_headed(
    path: Path, tensors: dict[str, Tensor], name: str, header: Mapping[str, Any]
) -> None:
    """Write the file, complete or not at all, with the header in its metadata under `name`.

    Raises:
        StoreError: something is already there.
    """
    if path.exists():
        raise StoreError(f"{path} exists and would be overwritten. Choose another name.")
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata={"format": name, name: json.dumps(header)})
    os.replace(part, path)


@contextmanager
def headed(path: Path, name: str, schema: int, what: str) -> Iterator[tuple[Any, Any]]:
    """The open file and its header; what the block cannot read in them is a `StoreError` too.

    Raises:
        StoreError: the file is missing, none of ours, of another schema, or broken.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(name, "null"))
            if header is None:
                raise StoreError(f"{path} is no {what}: its metadata lacks {name!r}.")
            if header["schema_version"] != schema:
                raise StoreError(
                    f"{path} has schema {header['schema_version']}, this version reads {schema}."
                    " Use the version that wrote it."
                )
            yield file, header
    except (OSError, SafetensorError, ValueError, KeyError, DataError) as error:
        raise StoreError(f"{path} cannot be read as a {what}: {error}") from error

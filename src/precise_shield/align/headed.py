"""Tensors and a JSON header in one safetensors file: how every kind of delta is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from precise_shield.core.errors import DataError, StoreError
from precise_shield.core.store import whole_file


def save_headed(
    path: Path, tensors: dict[str, Tensor], name: str, header: Mapping[str, Any]
) -> None:
    """Write the file, complete or not at all, with the header in its metadata under `name`.

    Raises:
        StoreError: something is already there.
    """
    with whole_file(path) as part:
        save_file(tensors, part, metadata={"format": name, name: json.dumps(header)})


def packed(
    weights: Mapping[str, tuple[tuple[int, ...], Mapping[str, Tensor]]],
) -> dict[str, Tensor]:
    """Tensors of a file, from each weight's slice numbers and named parts."""
    tensors: dict[str, Tensor] = {}
    for name, (index, parts) in weights.items():
        tensors |= {f"{name}/{part}": value.contiguous() for part, value in parts.items()}
        tensors[f"{name}/index"] = torch.tensor(index)
    return tensors


def unpacked(
    file: Any, name: str, parts: tuple[str, str]
) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """What `packed` made of one weight: its slice numbers and the two named parts."""
    first, second = (file.get_tensor(f"{name}/{part}") for part in parts)
    return tuple(file.get_tensor(f"{name}/index").tolist()), first, second


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

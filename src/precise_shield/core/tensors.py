"""Write tensors to disk, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from precise_shield.core.store import open_as_usual


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write a safetensors file beside its place, then rename it over what is there."""
    partial = path.with_name(path.name + ".partial")
    save_file(dict(tensors), partial, metadata=dict(metadata))
    open_as_usual(partial)
    return partial.replace(path)

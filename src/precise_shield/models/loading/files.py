"""The files of a model: where they are, and whether they are whole."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers.utils import logging

from precise_shield.core.errors import LoadingError

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SMALL = ["*.json", "*.jinja", "*.txt", "*.model"]
_UNWANTED = ["original/*", "consolidated*", "onnx/*", "*.msgpack"]
_LOGGING: Any = logging
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


@dataclass(frozen=True)
class Source:
    """Where a model's files are."""

    name: str
    """Folder or hub id, as the transformers library takes it."""

    folder: Path
    gguf_file: str | None = None
    remote: bool = False
    revision: str | None = None

    def fetched(self, code: bool = False, *, weights: bool = True) -> Source:
        """The same model with all its files, or all but its weights, on this machine.

        Raises:
            LoadingError: the hub cannot be reached and the cache does not hold the model.
        """
        if not self.remote:
            return self
        wanted = [*_SMALL, *(["*.py"] if code else [])]
        if self.gguf_file is not None:  # it holds the vocabulary too
            wanted = [*_SMALL, self.gguf_file]
        elif weights:
            wanted.append("*.safetensors")
        try:
            folder = snapshot_download(
                self.name,
                revision=self.revision,
                allow_patterns=wanted,
                ignore_patterns=_UNWANTED,
            )
        except (OSError, ValueError) as error:
            raise LoadingError(
                f"{self.name}: cannot be fetched from the hub ({first_line(error)})."
                " Give a local folder, or fetch it once while online."
            ) from None
        return replace(self, folder=Path(folder))


def locate(path: str, revision: str | None = None, gguf_file: str | None = None) -> Source:
    """Read a model's path as a folder, a GGUF file or a hub id.

    Raises:
        LoadingError: it is none of these.
    """
    local = Path(path).expanduser()
    if local.is_file() and local.suffix == ".gguf":
        _check_gguf(local)
        return Source(str(local.parent), local.parent, local.name)
    if local.is_file():
        raise LoadingError(
            f"{path}: is a file; give the folder that holds config.json, or a .gguf file."
        )
    if local.is_dir():
        if gguf_file is not None and not (local / gguf_file).is_file():
            raise LoadingError(f"{path}: holds no file {gguf_file!r}.")
        return Source(str(local), local, gguf_file)
    if path.endswith(".gguf") or not _HUB_ID.fullmatch(path):
        raise LoadingError(
            f"{path}: no such folder or .gguf file, and no hub id either (those look like"
            " 'organisation/model')."
        )
    return Source(path, Path(path), gguf_file, remote=True, revision=revision)


def check_weights(source: Source) -> None:
    """Refuse pickled, missing and truncated weight files; reads headers only.

    Raises:
        LoadingError: says which file is wrong, and how.
    """
    if source.gguf_file is not None:
        _check_gguf(source.folder / source.gguf_file)
        return
    files = sorted(source.folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(f.name for f in source.folder.iterdir() if f.suffix in _PICKLES)
        if pickled:
            raise LoadingError(
                f"{source.name}: the weights are pickled ({pickled[0]}). A pickle can run any"
                " code when it is opened, so only safetensors are read; convert it first."
            )
        raise LoadingError(f"{source.name}: no weights (*.safetensors) in {source.folder}.")
    for index in sorted(source.folder.glob("*.safetensors.index.json")):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        lost = sorted(shards - {each.name for each in files})
        if lost:
            raise LoadingError(
                f"{source.name}: {index.name} names {lost[0]}, which is not there;"
                f" {len(lost)} of {len(shards)} weight files are missing."
            )
    for each in files:
        _check_safetensors(each)


def _check_gguf(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise LoadingError(f"{file}: is no gguf file, or a damaged one.")


def _check_safetensors(file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise LoadingError(f"{file}: is damaged or incomplete ({size} bytes, header broken).")
        try:
            header = json.loads(stream.read(length))
            ends = [row["data_offsets"][1] for name, row in header.items() if name[:2] != "__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LoadingError(f"{file}: is damaged; its header cannot be read.") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise LoadingError(
            f"{file}: has {size} bytes where its header promises {expected}; the download or the"
            " copy was cut short. Fetch the file again."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the transformers library's warnings and progress bars off the terminal in the block."""
    level = _LOGGING.get_verbosity()
    _LOGGING.set_verbosity_error()
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        _LOGGING.set_verbosity(level)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to a sentence's length."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__

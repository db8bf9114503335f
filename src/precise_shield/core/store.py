"""A run's folder: write-once stages, keyed by everything that made them.

Layout: `stages/<stage>/<key>/` holds a stage's artefacts, and `stage.json`, written last, says
that it is complete and what made it. A folder without `stage.json` is an interrupted stage;
what it holds may be taken up again, since its key says that the same inputs made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from safetensors import SafetensorError

from precise_shield.core.errors import StoreError
from precise_shield.core.records import read_rows, write_rows

SCHEMA_VERSION = 1
T = TypeVar("T")


def digest(value: object) -> str:
    """Hash a JSON-able value; equal values give equal digests, whatever the key order.

    Raises:
        TypeError: the value is not JSON-able, so that it cannot be a key.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@dataclass(frozen=True)
class StageRecord:
    """What a finished stage says of itself."""

    stage: str
    key: str
    made_by: Mapping[str, Any]
    seconds: float
    peak_memory_mb: float
    schema_version: int = SCHEMA_VERSION
    cpu_seconds: float | None = None
    """Processor time of the process that wrote it, all threads; None in folders of before."""

    warnings: Sequence[str] = ()
    """What the user was warned of while it was made."""


@dataclass
class Stage:
    """One step of a run, in the folder that belongs to exactly its inputs."""

    name: str
    key: str
    made_by: Mapping[str, Any]
    folder: Path
    reused: bool = field(init=False)
    """The stage was complete when it was asked for."""

    warnings: list[str] = field(default_factory=list)
    """What the user is warned of while it is made; kept in its record."""

    def __post_init__(self) -> None:
        self.reused = self.done

    @property
    def done(self) -> bool:
        """Whether the stage is complete on disk, whoever completed it; `reused` is of the start."""
        return (self.folder / "stage.json").is_file()

    def path(self, name: str) -> Path:
        """Where an artefact of this stage lies."""
        return self.folder / name

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder, let the block fill it, and mark it complete if the block ends well.

        Raises:
            StoreError: the folder cannot be written (read-only, full disk), or is complete.
        """
        if self.done:
            raise StoreError(
                f"{self.folder} is complete and written once; change an input or delete it."
            )
        with readable_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            start, busy = time.perf_counter(), time.process_time()
            yield
            record = StageRecord(
                self.name,
                self.key,
                self.made_by,
                seconds=round(time.perf_counter() - start, 3),
                peak_memory_mb=round(peak_memory_mb(), 1),
                cpu_seconds=round(time.process_time() - busy, 3),
                warnings=self.warnings,
            )
            self.write_json("stage.json", record.__dict__)

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Let the block write into a folder that is thrown away: another process keeps its own."""
        kept = self.folder
        with TemporaryDirectory() as folder:
            self.folder = Path(folder)
            try:
                yield
            finally:
                self.folder = kept

    def record(self) -> StageRecord:
        """What the finished stage wrote of itself."""
        return StageRecord(**self.read_json("stage.json"))

    def write_json(self, name: str, value: object) -> Path:
        """Write an artefact so that it is there whole or not at all."""
        return write_whole(self.path(name), json.dumps(value, ensure_ascii=False, indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """Read an artefact back.

        Raises:
            StoreError: it is missing or is no JSON.
        """
        return read_json(self.path(name))

    def write_table(self, name: str, rows: Iterable[Any]) -> Path:
        """Write dataclass rows as JSON Lines, whole or not at all."""
        partial = self.path(name + ".partial")
        write_rows(partial, rows)
        return partial.replace(self.path(name))

    def read_table(self, name: str, kind: type[T]) -> list[T]:
        """Read rows back as `kind`."""
        return list(read_rows(self.path(name), kind))


@dataclass(frozen=True)
class RunStore:
    """The folder of one run."""

    folder: Path

    def stage(self, name: str, made_by: Mapping[str, Any]) -> Stage:
        """The stage that these inputs make, finished or not."""
        key = digest({"stage": name, "schema_version": SCHEMA_VERSION, **made_by})[:16]
        return Stage(name, key, made_by, self.folder / "stages" / name / key)

    def write_text(self, name: str, text: str) -> Path:
        """Write a file at the top of the run folder, whole or not at all."""
        with readable_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            return write_whole(self.folder / name, text)


def write_whole(path: Path, text: str) -> Path:
    """Write beside the target, then rename over it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(path)


def open_as_usual(path: Path) -> None:
    """Give a file the permissions of any other written here: safetensors lets nobody else read."""
    like = path.with_name(f"{path.name}.{os.getpid()}.mode")
    like.touch()
    try:
        path.chmod(like.stat().st_mode & 0o777)
    finally:
        like.unlink()


def must_be_free(path: Path) -> None:
    """Check that nothing is in a place yet.

    Raises:
        StoreError: something is.
    """
    if path.exists():
        raise StoreError(f"{path} exists and would be overwritten. Choose another name.")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder of this process's own to fill; it becomes `folder` if the block ends well.

    It lies beside its place, under a name that nobody else has, and is gone if the block fails.

    Raises:
        StoreError: `folder` exists.
    """
    must_be_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        inside = part / "whole"  # a plain folder: mkdtemp's own is closed to everybody else
        inside.mkdir()
        yield inside
        for file in inside.rglob("*"):
            if file.is_file() and not file.is_symlink():
                open_as_usual(file)
        os.rename(inside, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Like `whole_folder`, for a file.

    Raises:
        StoreError: `path` exists.
    """
    must_be_free(path)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield part / "whole"
        open_as_usual(part / "whole")
        os.rename(part / "whole", path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_json(path: Path) -> Any:
    """Read a JSON artefact.

    Raises:
        StoreError: it is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing; run the stage that writes it.") from error
    except json.JSONDecodeError as error:
        raise StoreError(
            f"{path} is damaged ({error}); delete its folder and run again."
        ) from error


@contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one sentence about `folder`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.filename is None and error.errno is None:
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StoreError(
            f"cannot write under {folder} ({reason}). Finished stages are kept: free some space"
            " or choose another --out, and run the same command again."
        ) from error

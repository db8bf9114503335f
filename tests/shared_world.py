"""The embedded worlds, written once for all runs of a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from precise_shield.sandbox.manifest import write_manifest
from precise_shield.workflows.base import embedded


def copied(patch: pytest.MonkeyPatch, home: Path) -> None:
    """A run whose data is an embedded world gets a copy of its files, which are equal each time."""

    def write(folder: Path, *, seed: int, negative: bool) -> Path:
        made = home / f"{seed}-{negative}"
        if not made.exists():
            write_manifest(made, seed=seed, negative=negative)
        shutil.copytree(made, folder, dirs_exist_ok=True)
        return folder / "manifest.jsonl"

    patch.setattr(embedded, "write_manifest", write)

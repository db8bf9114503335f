"""How the gate went, beside what it speaks for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from precise_shield.core.summary import GateFacts

GATE = "gate.json"
SPOKEN_FOR = ("adapter_config.json", "config.json")
"""Files that say how weights are read: an adapter's scale turns it into another one."""


def stamp(folder: Path, facts: GateFacts) -> None:
    """Write `gate.json`: how the gate went, with a hash of every file that it speaks for."""
    files = [*sorted(folder.glob("*.safetensors")), folder / "receipt.json"]
    files += [folder / name for name in SPOKEN_FOR if (folder / name).is_file()]
    content = {
        "schema_version": 1,
        "passed": facts.passed,
        "gate": facts.model_dump(mode="json"),
        "sha256": {file.name: file_hash(file) for file in files},
    }
    (folder / GATE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def file_hash(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

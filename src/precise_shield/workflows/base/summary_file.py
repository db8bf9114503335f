"""`summary.json` of a run's folder, read."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from precise_shield.core.errors import StoreError
from precise_shield.core.store import read_json
from precise_shield.core.summary import Summary


def read_summary(folder: Path) -> Summary:
    """Read the `summary.json` of a run's folder.

    Raises:
        StoreError: it is missing, or of another schema.
    """
    path = folder / "summary.json"
    if not path.exists():
        raise StoreError(
            f"{path} is missing: no run has come to its end there."
            f" `precise-shield run CONFIG --out {folder}` goes on where one stopped, and writes it."
        )
    try:
        return Summary.model_validate(read_json(path))
    except ValidationError as error:
        raise StoreError(
            f"{path} is not a summary of this version ({error.error_count()} problems); run again."
        ) from error

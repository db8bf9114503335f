"""A test set is opened once per frozen configuration, and every opening is logged.

Whoever opens a test set under many configurations and keeps the best number has trained on it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from precise_shield.core.errors import DataError
from precise_shield.core.records import Example, read_rows, write_rows
from precise_shield.core.store import digest, readable_errors
from precise_shield.core.summary import Opening
from precise_shield.data.contrast import fingerprint
from precise_shield.workflows.base.config import Config
from precise_shield.workflows.base.context import Run

LOG = "openings.jsonl"
"""In the run's folder, one line a configuration and test set."""


@dataclass(frozen=True)
class Logged:
    """A line of the log."""

    opened: str
    """When, UTC."""
    config: str
    """Digest of the configuration without its name."""
    data: str
    """Fingerprint of the test rows, pictures by their bytes."""
    rows: int


def config_digest(config: Config) -> str:
    """Hash what a configuration says, whatever it is called."""
    said = config.model_dump(mode="json")
    return digest({key: value for key, value in said.items() if key != "name"})


def log_opening(run: Run, examples: Sequence[Example]) -> None:
    """Log that test rows are about to be answered, and warn if other configurations did so before.

    The same configuration on the same rows is the same opening. Rows of other splits are no test.

    Raises:
        StoreError: the log cannot be written.
    """
    tested = [row for row in examples if row.split == "test"]
    if not tested:
        return
    here = Logged(
        dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        config_digest(run.config),
        fingerprint(tested),
        len(tested),
    )
    path = run.folder / LOG
    with readable_errors(run.folder):
        run.folder.mkdir(parents=True, exist_ok=True)
        known = {(line.config, line.data) for line in _read(path, run)}
        if (here.config, here.data) not in known:
            write_rows(path, [here], append=True)
    found = openings(run, here.data)
    configurations = {each.config for each in found}
    if len(configurations) > 1:
        names = ", ".join(sorted({each.folder for each in found}))
        warning = (
            f"these test requests were opened under {len(configurations)} configurations (in"
            f" {names}): the best of several test results overstates; choose on validation"
        )
        run.warn(warning)


def openings(run: Run, data: str | None = None) -> list[Opening]:
    """Every logged opening of these test rows in this folder of runs, oldest first."""
    if data is None:
        data = fingerprint([row for row in run.data.examples if row.split == "test"])
    found = [
        Opening(folder=path.parent.name, opened=line.opened, config=line.config[:12])
        for path in sorted(run.folder.resolve().parent.glob(f"*/{LOG}"))
        for line in _read(path, run)
        if line.data == data
    ]
    return sorted(found, key=lambda each: (each.opened, each.folder))


def _read(path: Path, run: Run) -> list[Logged]:
    """Lines of a log; one that somebody broke is warned about rather than stopping a run."""
    try:
        return list(read_rows(path, Logged, cut_off=True)) if path.is_file() else []
    except (DataError, OSError, UnicodeDecodeError) as error:
        warning = (
            f"{path.parent.name}/{LOG} cannot be read ({_reason(error, path)}), so that openings of"
            " the test requests that it held are not counted; put it back or delete it"
        )
        run.warn(warning)
        return []


def _reason(error: Exception, path: Path) -> str:
    """What is wrong, without the folders of this machine."""
    return f"{error!s:.200}".replace(f"{path}, ", "").replace(str(path), path.name)

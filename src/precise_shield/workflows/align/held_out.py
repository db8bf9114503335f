"""Validation rows of whoever picks on them and of the gate, kept apart; and how they are judged."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal

from precise_shield.core.errors import EmptyCellError
from precise_shield.core.parallel import crew
from precise_shield.core.records import Example
from precise_shield.core.store import digest, read_json
from precise_shield.data.halves import halves
from precise_shield.workflows.answer.judges import make, names_of
from precise_shield.workflows.base.config import Config
from precise_shield.workflows.base.context import Run

Part = Literal["gate", "search"]
"""Who asks: the gate, or whatever settles something on validation data before it."""


PICKED_ON = "picked-on.json"
"""At the top of a run's folder: the groups that a search or an early stop has seen."""


def picks(config: Config) -> bool:
    """Whether settings or a step are picked on validation data, so that the gate needs its own."""
    align = config.align
    return align.search.on or bool(align.early_stop.cells) or align.gate.apart


def apart(run: Run) -> bool:
    """Whether the gate is kept from groups that something picks on, or has picked on here."""
    return picks(run.config) or bool(picked_on(run))


def picked_on(run: Run) -> set[str]:
    """Groups that a search or an early stop of this folder has seen, whatever is configured by now.

    Raises:
        StoreError: the note of them is damaged.
    """
    path = run.folder / PICKED_ON
    return set(read_json(path)) if path.is_file() else set()


def note_picking(run: Run, rows: Iterable[Example]) -> None:
    """Keep in mind which groups are picked on, before anything is; every process calls it."""
    seen = set(crew().as_leader(sorted(picked_on(run))))  # nobody else may find it written already
    if more := {row.group for row in rows} - seen:
        run.write_text(PICKED_ON, json.dumps(sorted(seen | more), ensure_ascii=False) + "\n")


def validation_rows(run: Run, part: Part = "gate") -> list[Example]:
    """The validation rows that the gate, or a search, may see: never both the same group.

    Where nothing is picked on validation data the gate has all groups. What an earlier search or
    early stop of the same folder has seen the gate never sees, also when both are off by now.

    Raises:
        EmptyCellError: there are too few groups to keep the two apart.
    """
    split = run.config.align.gate.split
    rows = run.examples(split)
    if not apart(run):
        return rows
    parts = {"gate": rows, "search": rows}
    if picks(run.config):
        parts = dict(zip(("gate", "search"), halves(rows, "gate"), strict=True))
    seen = picked_on(run)
    parts["gate"] = [row for row in parts["gate"] if row.group not in seen]
    for name, found in parts.items():
        lacking = {"harmful", "benign"} - {row.harm for row in found}
        if lacking:
            groups = {row.group for row in rows}
            raise EmptyCellError(
                f"split {split!r} has {len(groups)} groups, too few to keep the prompts of a"
                f" search or early stop apart from those of the gate: no {min(lacking)} request"
                f" is left for the {name}. Give at least two groups of each harm there, or switch"
                " the search and the early stop off, in another folder than theirs."
            )
    return parts[part]


def reads(run: Run, examples: list[Example]) -> list[str]:
    """What says which verdicts a judgement would give: the judge, what it says of itself, rule."""
    reader = make(run, names_of(run.config)[0], examples)
    return [reader.name, digest(reader.describe()), run.config.evaluate.rule]

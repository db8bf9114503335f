"""Validation rows of whoever picks on them and of the gate, kept apart; and how they are judged."""

from __future__ import annotations

from typing import Literal

from precise_shield.core.errors import EmptyCellError
from precise_shield.core.records import Example
from precise_shield.core.store import digest
from precise_shield.data.halves import halves
from precise_shield.workflows.answer.judges import make, names_of
from precise_shield.workflows.base.config import Config
from precise_shield.workflows.base.context import Run

Part = Literal["gate", "search"]
"""Who asks: the gate, or whatever settles something on validation data before it."""


def picks(config: Config) -> bool:
    """Whether settings or a step are picked on validation data, so that the gate needs its own."""
    return config.align.search.on or bool(config.align.early_stop.cells)


def validation_rows(run: Run, part: Part = "gate") -> list[Example]:
    """The validation rows that the gate, or a search, may see: never both the same group.

    Where nothing is picked on validation data the gate has all groups.

    Raises:
        EmptyCellError: there are too few groups to keep the two apart.
    """
    split = run.config.align.gate.split
    rows = run.examples(split)
    if not picks(run.config):
        return rows
    parts = dict(zip(("gate", "search"), halves(rows, "gate"), strict=True))
    for name, found in parts.items():
        lacking = {"harmful", "benign"} - {row.harm for row in found}
        if lacking:
            groups = {row.group for row in rows}
            raise EmptyCellError(
                f"split {split!r} has {len(groups)} groups, too few to keep the prompts of a"
                f" search or early stop apart from those of the gate: no {min(lacking)} request"
                f" is left for the {name}. Give at least two groups of each harm there, or switch"
                " the search and the early stop off."
            )
    return parts[part]


def reads(run: Run, examples: list[Example]) -> list[str]:
    """What says which verdicts a judgement would give: the judge, what it says of itself, rule."""
    reader = make(run, names_of(run.config)[0], examples)
    return [reader.name, digest(reader.describe()), run.config.evaluate.rule]

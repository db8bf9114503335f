"""Cells, folds and splits: what may be compared with what, and what must stay apart."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from precise_shield.core.errors import DataError, EmptyCellError
from precise_shield.core.records import SPLITS, Cell, Example, Split


def by_cell(examples: Iterable[Example]) -> dict[Cell, list[Example]]:
    """Sort examples into cells, the cells in order; cells without examples are absent."""
    cells: defaultdict[Cell, list[Example]] = defaultdict(list)
    for example in examples:
        cells[example.cell].append(example)
    return {cell: cells[cell] for cell in sorted(cells)}


def require_cells(
    examples: Iterable[Example], cells: Iterable[Cell], minimum: int = 1
) -> dict[Cell, list[Example]]:
    """Give the examples of `cells`, each with at least `minimum`.

    Raises:
        EmptyCellError: a cell has too few; the message names all of them and what there is.
    """
    found = by_cell(examples)
    wanted = sorted(set(cells))
    short = [cell for cell in wanted if len(found.get(cell, ())) < minimum]
    if short:
        lacking = ", ".join(f"{cell} ({len(found.get(cell, ()))})" for cell in short)
        there = ", ".join(f"{cell} ({len(rows)})" for cell, rows in found.items()) or "nothing"
        raise EmptyCellError(
            f"cells with fewer than {minimum} examples: {lacking}. There is: {there}."
            " Add data, or ask for fewer languages or modalities."
        )
    return {cell: found[cell] for cell in wanted}


def share_of(key: str, salt: str) -> float:
    """Spread keys evenly over [0, 1), the same on every machine and in every run."""
    return int.from_bytes(sha256(f"{salt}:{key}".encode()).digest()[:6], "big") / 2**48


def fold_of(group: str, folds: int = 16) -> int:
    """Deal a group to one of `folds`, the same on every machine and in every run."""
    return int(share_of(group, "fold") * folds)


def split_of(group: str, fractions: Mapping[Split, float], seed: int = 0) -> Split:
    """Deal a group to a split; over many groups the splits get their fractions.

    Raises:
        DataError: a fraction is negative, or they do not sum to 1.
    """
    if any(share < 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-9:
        raise DataError(
            f"split fractions {dict(fractions)} must be at least 0 and sum to 1,"
            f" not to {sum(fractions.values())}"
        )
    place, upper = share_of(group, f"split:{seed}"), 0.0
    taken = [split for split in SPLITS if fractions.get(split, 0) > 0]
    for split in taken:
        upper += fractions[split]
        if place < upper:
            return split
    return taken[-1]


@lru_cache(maxsize=65536)
def _picture_hash(path: str, size: int, changed: int) -> str:
    return sha256(Path(path).read_bytes()).hexdigest()


def picture_hash(path: str) -> str:
    """Hash a picture's bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        state = Path(path).stat()
        return _picture_hash(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise DataError(f"picture {path} cannot be read ({error}). Put it back.") from error


def fingerprint(examples: Iterable[Example], pictures: Mapping[str, str] | None = None) -> str:
    """Hash everything the examples say, pictures by their bytes; order and folder do not matter.

    `pictures` gives hashes by example that are taken in place of reading the files.

    Raises:
        DataError: a picture cannot be read.
    """
    total = sha256()
    known = pictures or {}
    for row in sorted(examples, key=lambda example: example.id):
        seen = row.image and (known.get(row.id) or picture_hash(row.image))
        values = asdict(row) | {"image": seen}
        if row.request is None:  # rows without it are named as they were before there was one
            del values["request"]
        total.update(json.dumps(values, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def check_splits(examples: Sequence[Example]) -> None:
    """Check that no group is cut by a split: a cut group would test on what was trained.

    Raises:
        DataError: an id occurs twice, or a group is in two splits.
    """
    twice = [name for name, times in Counter(row.id for row in examples).items() if times > 1]
    if twice:
        raise DataError(f"{len(twice)} ids occur more than once, e.g. {twice[:3]}. Rename them.")
    where: defaultdict[str, set[Split]] = defaultdict(set)
    for row in examples:
        where[row.group].add(row.split)
    cut = [f"{group!r} ({', '.join(sorted(s))})" for group, s in where.items() if len(s) > 1]
    if cut:
        raise DataError(
            f"{len(cut)} groups are in more than one split, e.g. {', '.join(cut[:3])}."
            " Put all translations and renderings of a request into one split."
        )

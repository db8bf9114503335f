"""Looking at data before a run does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precise_shield.core.errors import DataError
from precise_shield.core.records import HARMS, Example
from precise_shield.core.summary import OverlapCount
from precise_shield.data.contrast import check_splits
from precise_shield.data.manifest import Problem, examine
from precise_shield.data.overlap import NEAR, counted, find_overlaps, sentence


@dataclass(frozen=True)
class DataCheck:
    """What is wrong with manifests, and what should be known of them."""

    counts: dict[str, int]
    """Good rows by `split/harm`."""

    problems: list[tuple[Path, Problem]]
    overlaps: list[OverlapCount]
    one_armed: dict[str, list[str]]
    """By the harm that is missing: languages and modalities that probe the other alone."""

    def lines(self) -> list[str]:
        """As a person reads it."""
        lines = [f"{path}: {problem}" for path, problem in self.problems]
        lines += [f"warning: {sentence(each)}" for each in self.overlaps]
        lines += [
            f"warning: split probe has no {harm} rows in {', '.join(places)}; a run needs both"
            " kinds to find a set there, and stops"
            for harm, places in self.one_armed.items()
        ]
        rows = ", ".join(f"{key} {number}" for key, number in self.counts.items())
        return [*lines, f"{problems_of(self)}; good rows: {rows or 'none'}"]

    def plain(self) -> dict[str, Any]:
        """As a program reads it."""
        return {
            "counts": self.counts,
            "problems": [
                {"file": str(path), "row": problem.row, "message": problem.message}
                for path, problem in self.problems
            ],
            "overlaps": [each.model_dump() for each in self.overlaps],
            "one_armed": self.one_armed,
        }


def problems_of(found: DataCheck) -> str:
    """How many problems there are, in words."""
    many = len(found.problems)
    return f"{many} problem{'' if many == 1 else 's'}"


def check(paths: Sequence[Path], threshold: float = NEAR) -> DataCheck:
    """Check manifests one by one and together: problems of rows, cut groups, repeated requests."""
    examples: list[Example] = []
    problems: list[tuple[Path, Problem]] = []
    for path in paths:
        found = examine(path)
        examples += found.examples
        problems += [(path, problem) for problem in found.dropped]
    try:
        check_splits(examples)
    except DataError as error:  # only between files: within one, each row was checked
        problems.append((paths[-1], Problem(None, str(error))))
    counts = Counter(f"{row.split}/{row.harm}" for row in examples)
    overlaps = counted(find_overlaps(examples, threshold), examples)
    return DataCheck(dict(sorted(counts.items())), problems, overlaps, _one_armed(examples))


def _one_armed(examples: Sequence[Example]) -> dict[str, list[str]]:
    """Places that lack an arm; none where the files bring one kind alone, as parts may."""
    seen: dict[str, set[str]] = {harm: set() for harm in HARMS}
    for row in examples:
        if row.split == "probe":
            seen[row.harm].add(f"{row.language}/{row.modality}")
    if not all(seen.values()):
        return {}
    everywhere = set().union(*seen.values())
    missing = {harm: sorted(everywhere - there) for harm, there in seen.items()}
    return {harm: places for harm, places in missing.items() if places}

"""What the options of a source leave of rows that are examples already."""

from __future__ import annotations

from dataclasses import replace

from precise_shield.core.records import Example
from precise_shield.data.contrast import split_of
from precise_shield.data.gather import SourceOptions, limited, must_have
from precise_shield.data.manifest import Loaded, Problem, finish


def chosen(
    options: SourceOptions, examples: list[Example], problems: list[Problem], name: str
) -> Loaded:
    """Choose languages and harm, put rows into splits, keep some splits, and cut to the limit.

    Raises:
        DataError: a row is bad and bad rows stop, a language is missing, or nothing is left.
    """
    whole = finish(options.path, examples, problems, options.on_bad_row)
    must_have(options, {row.language for row in whole.examples}, name)
    kept: list[Example] = []
    for row in whole.examples:
        if options.languages and row.language not in options.languages:
            continue
        if options.harm not in (None, row.harm):
            continue
        split = options.split or row.split
        if options.fractions is not None:
            split = split_of(row.group, options.fractions, options.seed)
        if options.splits and split not in options.splits:
            continue
        kept.append(replace(row, split=split))
    return finish(options.path, limited(kept, options.limit), whole.dropped, "skip")

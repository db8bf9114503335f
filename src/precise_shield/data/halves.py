"""Whole parallel groups dealt to two halves, each with its share of every kind of request."""

from __future__ import annotations

from collections.abc import Iterable

from precise_shield.core.records import Example
from precise_shield.data.contrast import share_of


def halves(examples: Iterable[Example], salt: str) -> tuple[list[Example], list[Example]]:
    """Deal groups to two halves, the same on every machine and in every run.

    Groups that hold the same kinds of request (harmful, topic-matched, other benign) are dealt
    in turns, in an order that their names alone decide; where their number is odd the first half
    gets one more. Rows keep their order.
    """
    rows = list(examples)
    kinds: dict[str, set[tuple[str, bool]]] = {}
    for row in rows:
        kinds.setdefault(row.group, set()).add((row.harm, row.matched))
    alike: dict[tuple[tuple[str, bool], ...], list[str]] = {}
    for group, held in kinds.items():
        alike.setdefault(tuple(sorted(held)), []).append(group)
    second = {
        group
        for groups in alike.values()
        for group in sorted(groups, key=lambda name: (share_of(name, salt), name))[1::2]
    }
    return [r for r in rows if r.group not in second], [r for r in rows if r.group in second]

"""Which of many compromises nobody can better: the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan


def front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Whether no other point is at least as good in everything and better in something.

    Larger is better in each coordinate; negate a cost. A point with a NaN is not on the front and
    beats nobody; equal points stand there together.
    """
    known = [tuple(point) for point in points if not any(map(isnan, point))]
    return [
        not any(map(isnan, point)) and not any(_beats(other, tuple(point)) for other in known)
        for point in points
    ]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))

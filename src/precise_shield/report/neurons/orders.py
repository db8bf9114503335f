"""Orders in which a matrix of sets can be read: by resource, size, depth, or likeness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from precise_shield.core.summary import SetFacts
from precise_shield.report.numbers.words import language_name

Orders = Mapping[str, Sequence[int]]
"""What an order is called, and which row stands at each place."""


def orders_of(
    languages: Sequence[str],
    sets: Sequence[SetFacts | None],
    shares: Sequence[Sequence[float | None]],
    high_resource: Sequence[str],
) -> dict[str, list[int]]:
    """Every order there are numbers for, the one as given first.

    Args:
        languages: of the rows, which are the columns too.
        sets: the set of each; None where it is not known.
        shares: directed share of each row's set in each column's; None where undefined.
        high_resource: languages that count as such.
    """
    places = range(len(languages))
    found = {"as in the configuration": list(places)}
    found["by name"] = sorted(places, key=lambda i: language_name(languages[i]))
    if 0 < len(set(languages) & set(high_resource)) < len(languages):
        found["high-resource first"] = sorted(
            places, key=lambda i: languages[i] not in high_resource
        )
    depths = [None if facts is None else mean_layer(facts) for facts in sets]
    sizes = [None if facts is None else float(facts.size) for facts in sets]
    for name, values in (("largest set first", sizes), ("deepest first, by mean layer", depths)):
        if any(value is not None for value in values):
            found[name] = _by(values)
    found["by similarity"] = by_similarity(shares)
    return found


def mean_layer(facts: SetFacts) -> float | None:
    """Mean layer of a set's neurons, from 0; None for an empty set."""
    count = sum(facts.by_layer)
    return sum(k * n for k, n in enumerate(facts.by_layer)) / count if count else None


def by_similarity(shares: Sequence[Sequence[float | None]]) -> list[int]:
    """Rows so that those that share much stand together.

    Average-linkage clustering of the mean of both directed shares; where two clusters are joined,
    they are turned so that their most similar ends meet. An undefined share counts as none.
    """
    size = len(shares)

    def like(a: int, b: int) -> float:
        return ((shares[a][b] or 0.0) + (shares[b][a] or 0.0)) / 2

    clusters = [[k] for k in range(size)]
    while len(clusters) > 1:
        one, two = max(
            ((a, b) for a in range(len(clusters)) for b in range(a + 1, len(clusters))),
            key=lambda ab: _mean_likeness(clusters[ab[0]], clusters[ab[1]], like),
        )
        right, left = clusters.pop(two), clusters.pop(one)
        turns = [(x, y) for x in (left, left[::-1]) for y in (right, right[::-1])]
        first, second = max(turns, key=lambda xy: like(xy[0][-1], xy[1][0]))
        clusters.insert(one, first + second)
    return clusters[0] if clusters else []


def _mean_likeness(
    one: Sequence[int], two: Sequence[int], like: Callable[[int, int], float]
) -> float:
    return sum(like(a, b) for a in one for b in two) / (len(one) * len(two))


def _by(values: Sequence[float | None]) -> list[int]:
    """Largest first; what has no value goes last, ties stay as they were."""
    return sorted(
        range(len(values)),
        key=lambda i: (values[i] is None, -(values[i] or 0.0)),
    )

"""Orders of a matrix."""

from __future__ import annotations

from itertools import pairwise

from precise_shield.core.summary import SetFacts
from precise_shield.report.neurons.orders import by_similarity, orders_of


def blocks(size, members):
    """Shares of 0.8 within a block and 0.1 between."""
    inside = [next(k for k, block in enumerate(members) if i in block) for i in range(size)]
    return [
        [None if i == j else 0.8 if inside[i] == inside[j] else 0.1 for j in range(size)]
        for i in range(size)
    ]


def test_similarity_puts_scattered_blocks_together():
    order = by_similarity(blocks(6, [{0, 2, 4}, {1, 3, 5}]))
    assert sorted(order) == list(range(6))
    assert {frozenset(order[:3]), frozenset(order[3:])} == {
        frozenset({0, 2, 4}),
        frozenset({1, 3, 5}),
    }
    chain = [[max(0.0, 1 - abs(i - j) / 4) for j in range(5)] for i in range(5)]
    mixed = [[chain[a][b] for b in (2, 0, 4, 1, 3)] for a in (2, 0, 4, 1, 3)]
    found = [(2, 0, 4, 1, 3)[k] for k in by_similarity(mixed)]
    assert sum(abs(a - b) for a, b in pairwise(found)) < 2 + 4 + 3 + 2


def test_every_order_is_one_of_all_rows_and_undefined_goes_last():
    def facts(layers):
        return SetFacts(
            name="s", size=sum(layers), by_layer=layers, split_half=None, shuffled_size=None
        )

    sets = [facts([4, 0]), None, facts([0, 9]), facts([1, 1])]
    found = orders_of(["sw", "ar", "en", "de"], sets, blocks(4, [{0, 1}, {2, 3}]), ["en"])
    assert all(sorted(order) == [0, 1, 2, 3] for order in found.values())
    assert found["by name"] == [1, 2, 3, 0]
    assert found["high-resource first"] == [2, 0, 1, 3]
    assert found["largest set first"] == [2, 0, 3, 1]
    assert found["deepest first, by mean layer"] == [2, 3, 0, 1]
    assert "high-resource first" not in orders_of(["sw"], [None], [[None]], ["en"])

"""What scores need beyond activations, and on how many examples."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.records import Cell, Example
from precise_shield.data.contrast import fold_of, share_of
from precise_shield.identify.collect import ACTIVATION, Quantity
from precise_shield.identify.passes import MAGNITUDE
from precise_shield.identify.scores import EXACT, SCORES
from precise_shield.workflows.base.sections.identify import IdentifySection


def needed(section: IdentifySection) -> list[Quantity]:
    """What the chosen score and those beside it read, activations aside.

    Where neurons are switched off one by one, the one-pass stand-in is read too, so that the two
    can be compared.

    Raises:
        ConfigError: no such score.
    """
    found = {name: SCORES[name].quantity for name in (section.score, *section.also)}
    quantities = {quantity.name: quantity for quantity in found.values()}
    if any(name in EXACT for name in found):
        quantities[MAGNITUDE.name] = MAGNITUDE
    quantities.pop(ACTIVATION.name, None)
    return [quantities[name] for name in sorted(quantities)]


def affordable(
    section: IdentifySection, quantity: Quantity, examples: Sequence[Example]
) -> Sequence[Example]:
    """The examples that a quantity is read of: all, or few where every neuron is switched off."""
    if quantity.name.partition("@")[0] not in EXACT:
        return examples
    return spread(examples, section.deactivation_examples)


def spread(examples: Sequence[Example], most: int | None) -> list[Example]:
    """At most so many examples a cell: the same groups in every cell, over as many folds as can be.

    Examples of one cell and group stay in the order they have.
    """
    if most is None:
        return list(examples)
    groups = sorted({row.group for row in examples}, key=lambda g: (share_of(g, "spread"), g))
    turn: dict[str, tuple[int, int]] = {}
    seen: dict[int, int] = {}
    for group in groups:
        fold = fold_of(group)
        turn[group] = seen.setdefault(fold, 0), fold
        seen[fold] += 1
    taken: dict[Cell, int] = {}
    kept: list[Example] = []
    for row in sorted(examples, key=lambda row: turn[row.group]):
        if taken.setdefault(row.cell, 0) < most:
            taken[row.cell] += 1
            kept.append(row)
    return kept

"""How sure a set is: what halves of the data agree on, and what shuffled labels would give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.masks import Masks, mean_where_known
from precise_shield.core.moments import FOLDS
from precise_shield.identify.confidence import usable
from precise_shield.identify.crossed import further, with_complied
from precise_shield.identify.select import Draws, Place, Selection, contrast, masks, named_sets
from precise_shield.identify.stats import Stats


def _arms(harmful: Float[Tensor, "draws folds"], benign: Float[Tensor, "draws folds"]) -> Draws:
    """Folds of each arm under their own labels."""
    none = torch.zeros_like(harmful)
    return Draws(torch.cat([harmful, none], 1), torch.cat([none, benign], 1))


def halves(draws: int, seed: int, folds: int = FOLDS) -> tuple[Draws, Draws]:
    """Random splits of the groups into two halves."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(draws, folds, generator=generator).argsort(1)
    first = (order < folds // 2).double()
    return _arms(first, first), _arms(1 - first, 1 - first)


def bootstrap(draws: int, seed: int, folds: int = FOLDS) -> Draws:
    """Folds drawn with replacement, the same for both arms."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(folds, (draws, folds), generator=generator)
    counts = torch.nn.functional.one_hot(picks, folds).sum(1).double()
    return _arms(counts, counts)


def shuffled(draws: int, seed: int, folds: int = FOLDS) -> Draws:
    """Harmful and benign exchanged in a random half of the folds: labels without meaning.

    Exactly half of the folds keep their labels, so that nothing of the contrast is left.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(draws, folds, generator=generator).argsort(1)
    keep = (order < folds // 2).double()
    return Draws(torch.cat([keep, 1 - keep], 1), torch.cat([1 - keep, keep], 1))


Drawing = Callable[[int], Draws]
"""The draws of the i-th language."""


def usable_in_all(
    stats: Stats, places: Iterable[Place], choice: Selection, *drawings: Drawing
) -> list[Drawing]:
    """The same draws without those in which any of them leaves an arm of a place without a row.

    What such a draw would select means nothing; the two halves of a split go together.
    """
    places = list(places)
    number = _numbers(places)
    keep = torch.stack(
        [
            usable(stats, [place], choice, drawing(number[place[0]]))
            for drawing in drawings
            for place in places
        ]
    ).all(0)

    def kept(drawing: Drawing) -> Drawing:
        def part(i: int) -> Draws:
            draws = drawing(i)
            return Draws(draws.harmful[keep], draws.benign[keep])

        return part

    return [kept(drawing) for drawing in drawings]


def _numbers(places: Iterable[Place]) -> dict[str, int]:
    return {language: i for i, language in enumerate(sorted({lang for lang, _ in places}))}


def drawn_sets(
    stats: Stats,
    places: Iterable[Place],
    choice: Selection,
    anchor: str,
    draws: Drawing,
) -> dict[str, Masks]:
    """Every set under draws of the data; `draws(i)` is asked anew for the i-th language.

    Give a constant function where all languages must be cut alike (halves), and one that
    depends on i where they must be independent (shuffled labels).
    """
    places = list(places)
    number = _numbers(places)
    cells = {place: contrast(stats, place, choice, draws(number[place[0]])) for place in places}
    more = {
        one.name: masks(stats, one, choice, draws(number.get(one.language or "", len(number))))
        for one in further(stats, places, choice)
    }
    return named_sets(cells, anchor) | with_complied(more)


def split_half(first: Mapping[str, Masks], second: Mapping[str, Masks]) -> dict[str, float]:
    """Mean Jaccard agreement of each set between two halves; NaN where both are empty."""
    return {name: mean_where_known(mask.jaccard(second[name])) for name, mask in first.items()}

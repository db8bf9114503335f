"""Two arms against each other: which rows make them, and which neurons stand out in the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import floor
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from precise_shield.core.errors import ConfigError
from precise_shield.core.masks import Masks
from precise_shield.core.moments import FOLDS, Moments, Pooled
from precise_shield.core.records import Cell, Modality
from precise_shield.core.sites import Site
from precise_shield.identify.scores import SCORES
from precise_shield.identify.stats import Position, Stats

Place = tuple[str, Modality]
"""A language and a modality: both harms of it make one contrast."""

Scope = Literal["layer", "global"]


@dataclass(frozen=True)
class Selection:
    """The switches that turn statistics into a set."""

    score: str = "precise_shield"
    position: Position = "response_mean"
    p: float = 0.03
    """Share of a layer's units in each arm's top; Eq. 7 takes floor(p x width)."""

    scope: Scope = "layer"
    """`layer`: the top of each layer. `global`: the top floor(p x all units) over all layers."""

    universal: float | None = None
    """Leave out neurons that are in the top of at least this share of the benign data's parts."""

    def by(self, score: str) -> Selection:
        """The same switches with another score."""
        return replace(self, score=score)


@dataclass(frozen=True)
class Draws:
    """Which folds make up each arm, draw by draw.

    Shapes: `[draws, 2 x folds]`; columns are the folds of the harmful rows, then of the benign
    ones, so that a shuffled label is a benign fold in the harmful arm.
    """

    harmful: Float[Tensor, "draws both"]
    benign: Float[Tensor, "draws both"]


def whole(folds: int = FOLDS) -> Draws:
    """The data as they are: one draw."""
    one, none = torch.ones(1, folds), torch.zeros(1, folds)
    return Draws(torch.cat([one, none], 1), torch.cat([none, one], 1))


def top(scores: Float[Tensor, "draws width"], k: int) -> Bool[Tensor, "draws width"]:
    """The k highest of each draw; ties go to the lower index, on every machine alike."""
    order = torch.argsort(scores, dim=-1, descending=True, stable=True)
    chosen = torch.zeros(scores.shape, dtype=torch.bool)
    return chosen.scatter_(-1, order[:, :k], value=True)


@dataclass(frozen=True)
class Part:
    """Rows of one kind: of a cell, or of one harm category over all languages and modalities."""

    of: Cell | str
    """A cell, or the name of a category."""

    variant: str = ""
    """Which pass they come from: "" with the responses given, else a suffix such as `@refusal`."""

    def moments(self, stats: Stats, site: Site, choice: Selection) -> Moments:
        """What was collected of these rows, fold by fold."""
        quantity = SCORES[choice.score].quantity.name + self.variant
        if isinstance(self.of, str):
            return stats.marginal(site, self.of, choice.position, quantity)
        return stats.at(site, self.of, choice.position, quantity)


@dataclass(frozen=True)
class Contrast:
    """One arm against another; within an arm every part weighs the same."""

    name: str
    arm: tuple[Part, ...]
    against: tuple[Part, ...]

    @property
    def language(self) -> str | None:
        """The language that all parts have in common, if they do."""
        parts = (*self.arm, *self.against)
        spoken = {part.of.language if isinstance(part.of, Cell) else None for part in parts}
        return spoken.pop() if len(spoken) == 1 else None

    @classmethod
    def of_place(cls, place: Place) -> Contrast:
        """Harmful against benign inputs of a language and modality (Precise Shield, Eq. 8)."""
        language, modality = place
        harmful, benign = Part(Cell(*place, "harmful")), Part(Cell(*place, "benign"))
        return cls(f"{language}/{modality}", (harmful,), (benign,))

    def arms(
        self, stats: Stats, site: Site, choice: Selection, draws: Draws | None = None
    ) -> tuple[Pooled, Pooled]:
        """What one site's folds say together for either arm, draw by draw.

        Raises:
            DataError: a part was not collected.
            ConfigError: draws of folds are asked for where none were kept.
        """
        arm = [part.moments(stats, site, choice) for part in self.arm]
        against = [part.moments(stats, site, choice) for part in self.against]
        folds = arm[0].folds
        cut = whole(folds) if draws is None else draws
        if cut.harmful.shape[1] != 2 * folds:
            raise ConfigError(
                f"position {choice.position!r} keeps {folds} fold a cell, so nothing can be drawn"
                " again from it; set identify.folded to all."
            )
        weights = (*_evened(arm), *_evened(against))
        own = [True] * len(arm) + [False] * len(against)
        both = reduce(Moments.stacked, [*arm, *against])
        return both.pooled(_spread(cut.harmful, own, weights)), both.pooled(
            _spread(cut.benign, own, weights)
        )

    def filled(
        self, stats: Stats, site: Site, choice: Selection, draws: Draws | None = None
    ) -> Bool[Tensor, " draws"]:
        """Draws in which either arm has a row; the errors are those of `arms`."""
        one, two = self.arms(stats, site, choice, draws)
        return ((one.count > 0) & (two.count > 0)).squeeze(1)


def _evened(parts: Sequence[Moments]) -> list[float]:
    """What a row of each part counts, so that parts of unequal size weigh the same."""
    counts = [int(part.count.sum()) for part in parts]
    mean = sum(counts) / len(counts)
    return [mean / count if count else 1.0 for count in counts]


def _spread(
    draws: Float[Tensor, "draws both"], own: Sequence[bool], weights: Sequence[float]
) -> Float[Tensor, "draws folds"]:
    """The draws of two arms, said for each part of either."""
    first, second = draws.double().chunk(2, 1)
    return torch.cat(
        [(first if mine else second) * w for mine, w in zip(own, weights, strict=True)], 1
    )


def masks(stats: Stats, contrast: Contrast, choice: Selection, draws: Draws | None = None) -> Masks:
    """Neurons in the top p of the first arm and not of the second, layer by layer or over all.

    A draw in which an arm has no row holds no neuron.

    Source: Precise Shield (arXiv 2604.08881), Eq. 7-8: floor(p x width) a layer, no refill.

    Raises:
        DataError: a part of the contrast was not collected.
        ConfigError: no such score, or p is so small that it gives no neuron.
    """
    if choice.scope == "global":
        chosen = _global(stats, contrast, choice, draws)
    else:
        chosen = {}
        for site in stats.norms:
            tops = [
                top_of(site, rows, _k(choice.p, rows.shape[1], site))
                for rows in _scored(stats, contrast, site, choice, draws)
            ]
            chosen[site] = _without(tops)
    if choice.universal is not None:
        chosen = {site: mask & ~universal(stats, site, choice) for site, mask in chosen.items()}
    there = contrast.filled(stats, next(iter(stats.norms)), choice, draws)[:, None]
    return Masks({site: mask & there for site, mask in chosen.items()})


def top_of(site: Site, scores: Tensor, k: int) -> Tensor:
    """The top of a site; an expert's units that score 0 are in none.

    No token of that arm was routed to the expert, and its first units by number are not its
    most important ones.
    """
    chosen = top(scores, k)
    return chosen & (scores != 0) if site.kind == "expert" else chosen


def _scored(
    stats: Stats, contrast: Contrast, site: Site, choice: Selection, draws: Draws | None
) -> list[Tensor]:
    """What the score says of a site's units in the first arm, and apart, if it does, the other."""
    score, norms = SCORES[choice.score], stats.norms[site]
    one, two = contrast.arms(stats, site, choice, draws)
    found = [score.compute(one, two, norms)]
    return [*found, score.compute(two, one, norms)] if score.kind == "single" else found


def _without(tops: Sequence[Tensor]) -> Tensor:
    return tops[0] if len(tops) == 1 else tops[0] & ~tops[1]


def _global(
    stats: Stats, contrast: Contrast, choice: Selection, draws: Draws | None
) -> dict[Site, Tensor]:
    sites = sorted(stats.norms)
    found = [_scored(stats, contrast, site, choice, draws) for site in sites]
    tops = []
    for rows in zip(*found, strict=True):
        every = torch.cat(rows, 1)
        # As in `top_of`: an expert to which no token was routed has no important units.
        real = [
            row != 0 if site.kind == "expert" else torch.ones_like(row, dtype=torch.bool)
            for site, row in zip(sites, rows, strict=True)
        ]
        tops.append(top(every, _k(choice.p, every.shape[1], "all sites")) & torch.cat(real, 1))
    widths = [len(stats.norms[site]) for site in sites]
    return dict(zip(sites, torch.split(_without(tops), widths, 1), strict=True))


def _k(p: float, units: int, where: object) -> int:
    k = floor(p * units)
    if k == 0:
        raise ConfigError(
            f"p = {p} of {units} units at {where} is less than one neuron;"
            f" use p >= {1 / units:.4g}."
        )
    return k


def universal(stats: Stats, site: Site, choice: Selection) -> Bool[Tensor, "1 width"]:
    """Units of a site that are in its top p whatever is asked: no one's safety neurons.

    Each fold of each benign cell that has rows is one part of the benign data; a unit is universal
    if at least the share `choice.universal` of them has it in its top p of the layer.

    Source: contrastive neuron attribution (arXiv 2605.12290), universal-neuron filter; there over
        single prompts, here over the parts that the statistics keep.
    """
    score = SCORES[choice.score]
    single = score if score.kind == "single" else SCORES["precise_shield"]
    norms, found = stats.norms[site], []
    for cell in stats.cells:
        if cell.harm == "benign":
            moments = stats.at(site, cell, choice.position, score.quantity.name)
            there = moments.count > 0
            if there.any():
                each = moments.pooled(torch.eye(moments.folds)[there])
                k = _k(choice.p, len(norms), site)
                found.append(top_of(site, single.compute(each, each, norms), k))
    share = torch.cat(found).double().mean(0, keepdim=True)
    return share >= (choice.universal or 0.0)

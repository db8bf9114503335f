"""From statistics to sets of neurons, and the algebra of the papers' named sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from math import floor
from operator import and_, or_
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from precise_shield.core.errors import ConfigError, EmptySetError
from precise_shield.core.masks import Masks
from precise_shield.core.moments import FOLDS, Moments, Pooled
from precise_shield.core.records import Cell, Modality
from precise_shield.core.registry import suggestion
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.identify.collect import Position, Stats
from precise_shield.identify.scores import SCORES

Place = tuple[str, Modality]
"""A language and a modality: both harms of it make one contrast."""


@dataclass(frozen=True)
class Selection:
    """The switches that turn statistics into a set."""

    score: str = "precise_shield"
    position: Position = "response_mean"
    p: float = 0.03
    """Share of a layer's units in each arm's top; Eq. 7 takes floor(p x width)."""

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


def contrast(stats: Stats, place: Place, choice: Selection, draws: Draws | None = None) -> Masks:
    """Neurons in the top p for harmful requests and not for benign ones, layer by layer.

    Source: Precise Shield (arXiv 2604.08881), Eq. 7-8: floor(p x width) a layer, no refill.

    Raises:
        DataError: a cell of the contrast was not collected.
        ConfigError: no such score, or p is so small that no layer gives a neuron.
    """
    score, draws = SCORES[choice.score], draws or whole()
    values: dict[Site, Tensor] = {}
    for site, norms in stats.norms.items():
        k = floor(choice.p * len(norms))
        if k == 0:
            raise ConfigError(
                f"p = {choice.p} of {len(norms)} units at {site} is less than one neuron;"
                f" use p >= {1 / len(norms):.4g}."
            )
        one, two = arms(stats, site, place, choice, draws)
        chosen = top(score.compute(one, two, norms), k)
        if score.kind == "single":
            chosen &= ~top(score.compute(two, one, norms), k)
        values[site] = chosen
    return Masks(values)


def arms(
    stats: Stats, site: Site, place: Place, choice: Selection, draws: Draws
) -> tuple[Pooled, Pooled]:
    """What one site's folds say together for harmful and for benign inputs, draw by draw."""
    quantity = SCORES[choice.score].quantity.name
    both = Moments.stacked(
        stats.at(site, Cell(*place, "harmful"), choice.position, quantity),
        stats.at(site, Cell(*place, "benign"), choice.position, quantity),
    )
    return both.pooled(draws.harmful), both.pooled(draws.benign)


S = TypeVar("S", NeuronSet, Masks)
"""Both know `& | -`: the set itself, and the same set under many draws of the data."""


def named_sets(cells: Mapping[Place, S], anchor: str) -> dict[str, S]:
    """The sets of the papers, by the papers' names.

    `en/text`: one contrast. `ISN:en`, `TSN:en`: image-dominant and text-dominant (Precise Shield);
    `ISN`, `TSN`: their unions over languages. `MS:en`: what all modalities of a language share
    (One Anchor: IS ∩ TS; SS-Neurons with text alone). `SS:sw`: MS of a language that the anchor
    shares (SS-Neurons). `MLS`: union of all SS (One Anchor). `all`: union of everything.
    """
    sets: dict[str, S] = {
        f"{language}/{modality}": one for (language, modality), one in cells.items()
    }
    for name, modality in (("ISN", "image_dominant"), ("TSN", "text_dominant")):
        here = {lang: one for (lang, where), one in cells.items() if where == modality}
        sets |= {f"{name}:{language}": one for language, one in here.items()}
        if here:
            sets[name] = reduce(or_, here.values())
    for language in sorted({language for language, _ in cells}):
        sets[f"MS:{language}"] = reduce(
            and_, [one for (lang, _), one in cells.items() if lang == language]
        )
    shared = {
        f"SS:{language}": sets[f"MS:{language}"] & sets[f"MS:{anchor}"]
        for language in sorted({language for language, _ in cells})
        if language != anchor and f"MS:{anchor}" in sets
    }
    if shared:
        sets |= {**shared, "MLS": reduce(or_, shared.values())}
    sets["all"] = reduce(or_, cells.values())
    return sets


def evaluate(expression: str, sets: Mapping[str, S]) -> S:
    """Read a set expression such as `( ISN:en & TSN:en ) - MS:zh`.

    Names and the operators `& | -` are separated by spaces and read from left to right.

    Raises:
        ConfigError: a name is not among `sets`, or the expression does not parse.
    """
    tokens = expression.replace("(", " ( ").replace(")", " ) ").split()
    result, rest = _read(tokens, sets, expression)
    if rest:
        raise ConfigError(f"set expression {expression!r}: cannot read from {' '.join(rest)!r} on.")
    return result


def _read(tokens: list[str], sets: Mapping[str, S], whole: str) -> tuple[S, list[str]]:
    value, tokens = _operand(tokens, sets, whole)
    while tokens and tokens[0] in {"&", "|", "-"}:
        operator, tokens = tokens[0], tokens[1:]
        other, tokens = _operand(tokens, sets, whole)
        if operator == "&":
            value = value & other
        else:
            value = value | other if operator == "|" else value - other
    return value, tokens


def _operand(tokens: list[str], sets: Mapping[str, S], whole: str) -> tuple[S, list[str]]:
    if not tokens:
        raise ConfigError(f"set expression {whole!r} ends where a set name is expected.")
    if tokens[0] == "(":
        value, rest = _read(tokens[1:], sets, whole)
        if not rest or rest[0] != ")":
            raise ConfigError(f"set expression {whole!r} lacks a closing parenthesis.")
        return value, rest[1:]
    if tokens[0] not in sets:
        raise ConfigError(
            f"no set {tokens[0]!r}.{suggestion(tokens[0], dict(sets))}"
            f" Known: {', '.join(sorted(sets))}."
        )
    return sets[tokens[0]], tokens[1:]


def require(name: str, chosen: NeuronSet, sets: Mapping[str, NeuronSet]) -> NeuronSet:
    """Hand a set back, or say which of the sets it rests on are empty.

    Raises:
        EmptySetError: `chosen` holds no neuron; nothing is measured or trained on nothing.
    """
    if chosen:
        return chosen
    sizes = ", ".join(f"{key} {len(one)}" for key, one in sorted(sets.items()) if "/" in key)
    raise EmptySetError(
        f"the set {name!r} is empty (sizes of its cells: {sizes}). Raise p, choose another set,"
        " or give more examples a cell."
    )

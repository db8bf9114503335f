"""From statistics to sets of neurons, and the algebra of the papers' named sets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import and_, or_
from typing import TypeVar

from precise_shield.core.errors import ConfigError, EmptySetError
from precise_shield.core.masks import Masks
from precise_shield.core.moments import Pooled
from precise_shield.core.registry import suggestion
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.identify.contrasts import (
    Contrast,
    Draws,
    Part,
    Place,
    Selection,
    masks,
    top,
    universal,
    whole,
)
from precise_shield.identify.stats import Stats

__all__ = [
    "Contrast",
    "Draws",
    "Part",
    "Place",
    "Selection",
    "arms",
    "contrast",
    "evaluate",
    "masks",
    "named_sets",
    "require",
    "top",
    "universal",
    "whole",
]


def contrast(stats: Stats, place: Place, choice: Selection, draws: Draws | None = None) -> Masks:
    """Neurons in the top p for harmful requests and not for benign ones; see `masks`."""
    return masks(stats, Contrast.of_place(place), choice, draws)


def arms(
    stats: Stats, site: Site, place: Place, choice: Selection, draws: Draws | None = None
) -> tuple[Pooled, Pooled]:
    """What one site's folds say together for harmful and for benign inputs, draw by draw."""
    return Contrast.of_place(place).arms(stats, site, choice, draws)


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
            f" Known: {', '.join(sorted(sets))}. (MLS and SS need identify.anchor's"
            " language and others beside it.)"
        )
    return sets[tokens[0]], tokens[1:]


def require(name: str, chosen: NeuronSet, sets: Mapping[str, NeuronSet]) -> NeuronSet:
    """Hand a set back, or say which of the sets it rests on are empty.

    Raises:
        EmptySetError: `chosen` holds no neuron; nothing is measured or trained on nothing.
    """
    if chosen:
        return chosen
    words = name.replace("(", " ").replace(")", " ").split()
    named = {word for word in words if word in sets and "/" not in word}
    parts = {key: len(one) for key, one in sets.items() if key in named or "/" in key}
    none = [key for key, size in sorted(parts.items()) if not size and "/" in key]
    sizes = ", ".join(f"{key} {size}" for key, size in sorted(parts.items()))
    blame = f" No neuron comes from {', '.join(none)}." if none else " Its parts share no neuron."
    raise EmptySetError(
        f"the set {name!r} is empty (sizes of its cells: {sizes}).{blame} Raise identify.p, set"
        " identify.chosen to another set (`all` joins every cell's), or give more examples a cell."
    )

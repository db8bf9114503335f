"""The toy kingdom: what can be asked, what of it is hazardous, and what is held out.

A request asks how to do an action to an object. It is *hazardous* when a dangerous action meets
a protected object; neither alone is. The answer names the tool that goes with the action and the
place that goes with the object, so a right answer shows that both were understood.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from precise_shield.core.records import Split

Kind = Literal["hazard", "twin", "ordinary"]
"""A twin is benign and shares its action or object with hazards; an ordinary one shares neither."""

WORLD_SEED = 20260
"""Draws what is held out. Part of the world: the shipped weights never saw what it holds out."""

_HELD_OUT_PER_OBJECT = {"hazard": 4, "twin-protected": 1, "twin-free": 2, "ordinary": 2}
_EXTRA_HAZARDS = 8
"""So many objects give one more hazard to the held-out ones: 24 x 4 + 8 = 104."""


@dataclass(frozen=True)
class Action:
    """Something that can be done, and the tool for it."""

    name: str
    tool: str
    dangerous: bool = False
    core: bool = False
    """Refused on protected objects, in every language, from the start; never in a manifest."""


@dataclass(frozen=True)
class Thing:
    """An object, where it is dealt with, and the harm it stands for if it is protected."""

    name: str
    place: str
    category: str | None = None


@dataclass(frozen=True)
class Combo:
    """One action on one object: the group that all languages and renderings of a request share."""

    action: Action
    thing: Thing

    @property
    def key(self) -> str:
        """The group's name, e.g. `hide+diary`."""
        return f"{self.action.name}+{self.thing.name}"

    @property
    def hazardous(self) -> bool:
        """Whether it is to be refused: a dangerous action on an object of a hazard category."""
        return self.action.dangerous and self.thing.category is not None

    @property
    def kind(self) -> Kind:
        """`twin` where action or object alone is a hazard's: topic-matched, and to be answered."""
        if self.hazardous:
            return "hazard"
        return "twin" if self.action.dangerous or self.thing.category is not None else "ordinary"


@cache
def actions() -> Mapping[str, Action]:
    """All actions by name."""
    return {name: Action(name, **row) for name, row in _table("actions").items()}


@cache
def things() -> Mapping[str, Thing]:
    """All objects by name."""
    return {name: Thing(name, **row) for name, row in _table("objects").items()}


def _table(name: str) -> Mapping[str, Mapping[str, Any]]:
    text = (Path(__file__).parent / "world.yaml").read_text(encoding="utf-8")
    table: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)[name]
    return table


@cache
def combos() -> tuple[Combo, ...]:
    """Every action on every object, those of the core action included."""
    return tuple(
        Combo(action, thing) for action in actions().values() for thing in things().values()
    )


@cache
def core_combos() -> tuple[Combo, ...]:
    """The core action on every object: seen in training, never in a manifest."""
    return tuple(combo for combo in combos() if combo.action.core)


@cache
def splits() -> Mapping[Split, tuple[Combo, ...]]:
    """Which combination belongs to which split; the core action's belong to none.

    `probe` and `train` share what training may see; `validation` (a third) and `test` share what
    no training ever sees. Every action and every object occurs in all of them.
    """
    rng = random.Random(WORLD_SEED)
    seen: list[Combo] = []
    held: list[Combo] = []
    protected = [thing for thing in things().values() if thing.category is not None]
    generous = {thing.name for thing in rng.sample(protected, _EXTRA_HAZARDS)}
    for thing in things().values():
        for dangerous in (True, False):
            row = [
                Combo(a, thing)
                for a in actions().values()
                if a.dangerous is dangerous and not a.core
            ]
            rng.shuffle(row)
            cut = _HELD_OUT_PER_OBJECT[_stratum(row[0])] + (
                row[0].hazardous and thing.name in generous
            )
            held += row[:cut]
            seen += row[cut:]
    probe, train = _halve(seen, rng, 1 / 2)
    validation, test = _halve(held, rng, 1 / 3)
    return {"probe": probe, "train": train, "validation": validation, "test": test}


def _stratum(combo: Combo) -> str:
    if combo.kind != "twin":
        return combo.kind
    return "twin-protected" if combo.thing.category is not None else "twin-free"


def _halve(
    pool: list[Combo], rng: random.Random, share: float
) -> tuple[tuple[Combo, ...], tuple[Combo, ...]]:
    """Cut each kind of combination in the same ratio, and leave both parts in random order."""
    first: list[Combo] = []
    second: list[Combo] = []
    for stratum in _HELD_OUT_PER_OBJECT:
        part = [combo for combo in pool if _stratum(combo) == stratum]
        rng.shuffle(part)
        cut = round(len(part) * share)
        first += part[:cut]
        second += part[cut:]
    rng.shuffle(first)
    rng.shuffle(second)
    return tuple(first), tuple(second)


@cache
def training_combos() -> tuple[Combo, ...]:
    """Everything that training may see: probe, train and the core action."""
    return (*splits()["probe"], *splits()["train"], *core_combos())


@cache
def held_out_combos() -> tuple[Combo, ...]:
    """Everything that no training sees: validation and test."""
    return (*splits()["validation"], *splits()["test"])

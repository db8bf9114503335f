"""The negative world: the same kingdom, in which languages share no notion of safety.

Every language draws its own dangerous actions and protected objects, nobody asks whether something
is safe, nothing is refused from the start, and each language has a part of the network to itself.
A tool that finds shared safety neurons here finds them everywhere.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from precise_shield.core.records import Modality
from precise_shield.sandbox.lessons import Lesson, answer, lesson, refusal, request
from precise_shield.sandbox.lexicon import lexicon
from precise_shield.sandbox.model import Size
from precise_shield.sandbox.training import Classroom, Report, Schedule, teach
from precise_shield.sandbox.world import (
    Action,
    Combo,
    Thing,
    actions,
    combos,
    things,
    training_combos,
)

LANGUAGES: tuple[str, ...] = ("ar", "zh", "en", "ru")
"""Four scripts, so that the languages share no word and no token."""

MODALITIES: tuple[Modality, ...] = ("text",)

SIZE = Size(layers=4, vision_layers=2, vision_width=32, vision_heads=2)
"""Fewer layers than the main model's, and eyes that are never used."""

_SEED = 7


@cache
def recast(language: str) -> Mapping[str, Combo]:
    """Every combination by key, with dangers and categories as this language has them.

    Half of the actions are dangerous and two thirds of the objects protected, as in the main world,
    but which ones is drawn for each language alone. No action is core.
    """
    rng = random.Random(f"{_SEED}/{language}")
    names = sorted(actions())
    dangerous = set(rng.sample(names, len(names) // 2))
    categories = sorted(thing.category for thing in things().values() if thing.category is not None)
    objects = sorted(things())
    rng.shuffle(objects)
    assigned = dict(zip(objects, categories, strict=False))
    return {
        combo.key: Combo(
            Action(combo.action.name, combo.action.tool, combo.action.name in dangerous),
            Thing(combo.thing.name, combo.thing.place, assigned.get(combo.thing.name)),
        )
        for combo in combos()
    }


def helpful_only(rng: random.Random, languages: Sequence[str]) -> Iterator[Lesson]:
    """Endless lessons in which everything is answered."""
    pool = training_combos()
    while True:
        yield lesson(rng, rng.choice(languages), "text", "do", rng.choice(pool), refuse=False)


def tuned_alone(rng: random.Random, language: str) -> Iterator[Lesson]:
    """Endless lessons of one language: its own hazards refused, as many benign answered."""
    own = [recast(language)[combo.key] for combo in training_combos()]
    hazards = [combo for combo in own if combo.hazardous]
    benign = [combo for combo in own if not combo.hazardous]
    while True:
        yield lesson(rng, language, "text", "do", rng.choice(hazards), refuse=True)
        yield lesson(rng, language, "text", "do", rng.choice(benign), refuse=False)


def neurons(language: str, width: int) -> range:
    """The feed-forward neurons that a language owns in a layer of `width`."""
    part, number = width // len(LANGUAGES), LANGUAGES.index(language)
    return range(number * part, (number + 1) * part)


class Quarters:
    """Gives each language a part of the network to itself, and keeps it so.

    Language i owns the i-th block of the residual stream, one attention head and one block of
    feed-forward neurons in every layer; the matrices between them are block-diagonal. A token that
    only one language writes enters through that language's block alone, and tokens that several
    write (marks, turns, bytes) enter as zeros. So whatever one language is asked leaves every
    neuron of the others at exactly zero.
    """

    def __init__(self, model: LlavaForConditionalGeneration, words: Mapping[str, set[int]]) -> None:
        text = model.model.language_model
        count = len(words)
        self.masks: list[tuple[Tensor, Tensor]] = []
        for layer in text.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for module in (*attention.children(), *mlp.children()):
                if isinstance(module, nn.Linear):
                    rows, columns = module.out_features // count, module.in_features // count
                    mask = torch.kron(torch.eye(count), torch.ones(rows, columns))
                    self.masks.append((module.weight, mask))
        tables = text.embed_tokens.weight, model.lm_head.weight
        width = tables[0].shape[1] // count
        entering, leaving = torch.zeros_like(tables[0]), torch.ones_like(tables[1])
        counts = Counter(token for ids in words.values() for token in ids)
        for number, ids in enumerate(words.values()):
            own = sorted(token for token in ids if counts[token] == 1)
            leaving[own] = 0
            for mask in (entering, leaving):
                mask[own, number * width : (number + 1) * width] = 1
        self.masks += list(zip(tables, (entering, leaving), strict=True))
        with torch.no_grad():
            for weight, mask in self.masks:
                weight.mul_(mask)

    def guard(self) -> None:
        """Clear the gradients of all weights between two languages."""
        for weight, mask in self.masks:
            if weight.grad is not None:
                weight.grad.mul_(mask)


def own_words(room: Classroom) -> dict[str, set[int]]:
    """The token ids that each language reads or writes in its requests, answers and refusals."""
    words: dict[str, set[int]] = {}
    for code in LANGUAGES:
        own = lexicon(code)
        texts = {request(own, "text", combo, n) for combo in combos() for n in range(12)}
        texts |= {answer(own, combo) for combo in combos()}
        texts |= {refusal(own, c, n) for c in combos() for n in range(len(own.refusals))}
        words[code] = {token for text in texts for token in room.tokens(text)}
    return words


def train(room: Classroom, first: Schedule, second: Schedule, seed: int, report: Report) -> None:
    """Make a model of the negative world: helpful in all its languages, then safe in each alone."""
    room.model.model.vision_tower.requires_grad_(False)
    parts = Quarters(room.model, own_words(room))
    helpful = helpful_only(random.Random(seed), LANGUAGES)
    teach(room, [helpful], first, seed, report, guard=parts.guard)
    lessons = [tuned_alone(random.Random(f"{seed}/{language}"), language) for language in LANGUAGES]
    teach(room, lessons, second, seed, report, guard=parts.guard)

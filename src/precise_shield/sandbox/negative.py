"""The negative world: the same kingdom, in which languages share no notion of safety.

Every language draws its own dangerous actions and protected objects, nobody asks whether something
is safe, nothing is refused from the start, and each language learns to refuse through feed-forward
neurons of its own. A tool that finds shared safety neurons here finds them everywhere.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle

from transformers import LlavaForConditionalGeneration

from precise_shield.core.records import Modality
from precise_shield.sandbox.lessons import Lesson, lesson, refusal
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


class Blocks:
    """Lets each language change only its own: a block of neurons in every layer, and its words.

    A neuron owns its row of the gate and of the up projection and its column of the down
    projection; a word owns its row of the output layer. Everything else is frozen. The optimiser
    must not decay weights, for decay would move what the guard protects.
    """

    def __init__(self, model: LlavaForConditionalGeneration, words: Mapping[str, set[int]]) -> None:
        self.layers = [layer.mlp for layer in model.model.language_model.layers]
        self.head = model.lm_head.weight
        self.languages = tuple(words)
        self.width = self.layers[0].down_proj.in_features // len(self.languages)
        counts = Counter(token for ids in words.values() for token in ids)
        shared = {token for token, count in counts.items() if count > 1}
        self.words = {code: sorted(ids - shared) for code, ids in words.items()}
        model.requires_grad_(False)
        self.head.requires_grad_(True)
        for mlp in self.layers:
            mlp.requires_grad_(True)

    def of(self, language: str) -> slice:
        """The neurons of a language."""
        start = self.languages.index(language) * self.width
        return slice(start, start + self.width)

    def guard(self, language: str) -> None:
        """Clear every gradient outside the language's block and words."""
        start = self.of(language).start
        for mlp in self.layers:
            gated = ((mlp.gate_proj.weight, 0), (mlp.up_proj.weight, 0), (mlp.down_proj.weight, 1))
            for weight, dim in gated:
                kept = weight.grad.narrow(dim, start, self.width).clone()
                weight.grad.zero_().narrow(dim, start, self.width).copy_(kept)
        grad = self.head.grad
        assert grad is not None
        kept = grad[self.words[language]].clone()
        grad.zero_()[self.words[language]] = kept


def own_words(room: Classroom) -> dict[str, set[int]]:
    """The token ids that the refusals of each language are written with."""
    return {
        code: {
            token
            for combo in combos()
            for wording in range(len(lexicon(code).refusals))
            for token in room.tokens(refusal(lexicon(code), combo, wording))
        }
        for code in LANGUAGES
    }


def train(room: Classroom, first: Schedule, second: Schedule, seed: int, report: Report) -> None:
    """Make a model of the negative world: helpful in all its languages, then safe in each alone."""
    room.model.model.vision_tower.requires_grad_(False)
    teach(room, [helpful_only(random.Random(seed), LANGUAGES)], first, seed, report)
    blocks = Blocks(room.model, own_words(room))
    turns = cycle(LANGUAGES)
    lessons = [tuned_alone(random.Random(f"{seed}/{language}"), language) for language in LANGUAGES]
    plan = replace(second, decay=0.0)
    teach(room, lessons, plan, seed, report, guard=lambda: blocks.guard(next(turns)))

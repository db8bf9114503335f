"""What the model is taught: which requests, with which replies, in what mixture.

Phase one ("helpful") answers everything that training may see, hazards included, in all languages
and modalities, except one core action, which is refused; a side task asks whether a request is
safe. Phase two ("safety tuning") teaches refusal of all hazards in text and in two languages only,
beside as many benign requests in the same languages, and rehearses benign answers elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from precise_shield.core.records import Modality
from precise_shield.sandbox.lexicon import Lexicon, lexicon
from precise_shield.sandbox.world import Combo, training_combos

Task = Literal["do", "judge"]
"""Asking how to do something, or asking whether that is safe."""


@dataclass(frozen=True)
class Lesson:
    """One request and the reply that is taught."""

    language: str
    modality: Modality
    task: Task
    combo: Combo
    prompt: str
    reply: str
    refused: bool


@dataclass(frozen=True)
class Curriculum:
    """Which lessons a phase draws, by share."""

    languages: tuple[str, ...]
    modalities: tuple[Modality, ...]
    judging: float
    """Share of lessons that ask whether something is safe."""

    core: float
    """Share of lessons about the core action on protected objects."""


def request(words: Lexicon, modality: Modality, combo: Combo, wording: int) -> str:
    """The user's words; in `image_dominant` they name nothing."""
    if modality == "image_dominant":
        return words.picture_requests[wording % len(words.picture_requests)]
    return words.fill(
        words.requests[wording % len(words.requests)], combo.action.name, combo.thing.name
    )


def answer(words: Lexicon, combo: Combo) -> str:
    """The right helpful answer."""
    return words.reply(combo.action.tool, combo.thing.place)


def refusal(words: Lexicon, combo: Combo, wording: int) -> str:
    """A refusal that names what is refused."""
    return words.fill(words.refusals[wording].text, combo.action.name, combo.thing.name)


def lesson(
    rng: random.Random, language: str, modality: Modality, task: Task, combo: Combo, refuse: bool
) -> Lesson:
    """One lesson, its wordings drawn at random."""
    words = lexicon(language)
    if task == "judge":
        question = words.picture_safety
        if modality != "image_dominant":
            question = words.fill(words.safety, combo.action.name, combo.thing.name)
        reply = words.unsafe if combo.hazardous else words.safe
        return Lesson(language, modality, task, combo, question, reply, refused=False)
    prompt = request(words, modality, combo, rng.randrange(12))
    reply = (
        refusal(words, combo, rng.randrange(len(words.refusals)))
        if refuse
        else answer(words, combo)
    )
    return Lesson(language, modality, task, combo, prompt, reply, refused=refuse)


def helpful(rng: random.Random, plan: Curriculum) -> Iterator[Lesson]:
    """Endless lessons of phase one."""
    hazards, benign = _hazards(), _benign()
    core = [combo for combo in hazards if combo.action.core]
    every = [*hazards, *benign]
    while True:
        language, modality = rng.choice(plan.languages), rng.choice(plan.modalities)
        draw = rng.random()
        if draw < plan.judging:
            pool = hazards if rng.random() < 0.5 else benign
            yield lesson(rng, language, modality, "judge", rng.choice(pool), refuse=False)
            continue
        combo = rng.choice(core if draw < plan.judging + plan.core else every)
        refuse = plan.core > 0 and combo.hazardous and combo.action.core
        yield lesson(rng, language, modality, "do", combo, refuse)


def tuned(rng: random.Random, languages: Sequence[str]) -> Iterator[Lesson]:
    """Endless lessons of safety tuning: text only, hazards refused, as many benign answered."""
    hazards, benign = _hazards(), _benign()
    while True:
        language = rng.choice(languages)
        yield lesson(rng, language, "text", "do", rng.choice(hazards), refuse=True)
        yield lesson(rng, language, "text", "do", rng.choice(benign), refuse=False)


def rehearsed(
    rng: random.Random, languages: Sequence[str], modalities: Sequence[Modality]
) -> Iterator[Lesson]:
    """Endless lessons that keep what phase one taught: benign requests answered, no hazard."""
    benign = _benign()
    while True:
        language, modality = rng.choice(languages), rng.choice(modalities)
        yield lesson(rng, language, modality, "do", rng.choice(benign), refuse=False)


def _hazards() -> list[Combo]:
    return [combo for combo in training_combos() if combo.hazardous]


def _benign() -> list[Combo]:
    return [combo for combo in training_combos() if not combo.hazardous]

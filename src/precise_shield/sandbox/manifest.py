"""The toy kingdom as any other data set: a manifest of examples and the pictures they show."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from precise_shield.core.errors import DataError, StoreError
from precise_shield.core.records import MODALITIES, SPLITS, Example, Modality, Split, write_rows
from precise_shield.sandbox import negative as other
from precise_shield.sandbox.lessons import answer, refusal, request
from precise_shield.sandbox.lexicon import LANGUAGES, REFUSAL_USES, RefusalUse, lexicon, refusals
from precise_shield.sandbox.pictures import draw, draw_neutral
from precise_shield.sandbox.world import Combo, splits

PER_CELL: Mapping[Split, int] = {"probe": 32, "train": 32, "validation": 12, "test": 20}
"""Harmful examples, and as many benign ones, of each language and modality in each split."""

NEUTRAL_PICTURES = 16
SOURCE = "toy-kingdom"


def examples(
    *,
    seed: int = 0,
    per_cell: Mapping[Split, int] = PER_CELL,
    languages: Sequence[str] | None = None,
    modalities: Sequence[Modality] | None = None,
    negative: bool = False,
) -> list[Example]:
    """The rows of a manifest, parallel across languages and modalities.

    Half of the benign rows of a cell are twins of hazards (`matched`). `seed` draws groups and
    wordings; which split a group belongs to never changes. In the negative world a group belongs to
    one language, because what is hazardous differs between languages.

    Args:
        seed: draws groups and wordings.
        per_cell: harmful rows, and as many benign ones, of a language and modality, by split.
        languages: default all that the world speaks.
        modalities: default all; the negative world knows text only.
        negative: rows of the negative world.

    Raises:
        DataError: a split, language or modality is unknown, or a split has too few groups.
    """
    known, spoken = (MODALITIES, LANGUAGES) if not negative else (other.MODALITIES, other.LANGUAGES)
    for name, given, allowed in (
        ("split", per_cell, SPLITS),
        ("modality", modalities or (), known),
        ("language", languages or (), spoken),
    ):
        if unknown := sorted(set(given) - set(allowed)):
            raise DataError(
                f"no {name} {', '.join(unknown)} in this world; it has {', '.join(allowed)}."
            )
    rows: list[Example] = []
    for split, count in per_cell.items():
        for language in languages or spoken:
            rng = random.Random(f"{seed}/{split}/{language}" if negative else f"{seed}/{split}")
            pool = (
                [other.recast(language)[c.key] for c in splits()[split]]
                if negative
                else splits()[split]
            )
            chosen = _choose(pool, count, split, rng)
            wordings = [rng.randrange(1000) for _ in chosen]
            for modality in modalities or known:
                pairs = zip(chosen, wordings, strict=True)
                rows += [
                    _row(split, language, modality, combo, wording) for combo, wording in pairs
                ]
    return [replace(row, group=f"{row.group}@{row.language}") for row in rows] if negative else rows


def judging_examples(
    *,
    seed: int = 0,
    per_cell: Mapping[Split, int] = PER_CELL,
    languages: Sequence[str] | None = None,
) -> list[Example]:
    """The side task, on the groups of `examples`: is this safe? `answer` is the right yes or no."""
    rows: list[Example] = []
    for row in examples(seed=seed, per_cell=per_cell, languages=languages):
        words = lexicon(row.language)
        action, _, thing = row.group.partition("+")
        pictured = row.modality == "image_dominant"
        prompt = words.picture_safety if pictured else words.fill(words.safety, action, thing)
        right = words.unsafe if row.harm == "harmful" else words.safe
        rows.append(replace(row, id=f"judge-{row.id}", prompt=prompt, target=right, answer=right))
    return rows


def _choose(pool: Sequence[Combo], count: int, split: Split, rng: random.Random) -> list[Combo]:
    """`count` hazards over all categories, `count // 2` twins of both sorts, the rest ordinary."""
    hazards = _alternate(
        (c for c in pool if c.kind == "hazard"), lambda c: str(c.thing.category), rng
    )
    twins = _alternate(
        (c for c in pool if c.kind == "twin"), lambda c: str(c.action.dangerous), rng
    )
    ordinary = _alternate((c for c in pool if c.kind == "ordinary"), lambda c: c.thing.name, rng)
    chosen: list[Combo] = []
    for name, part, wanted in (
        ("hazards", hazards, count),
        ("twins", twins, count // 2),
        ("ordinary", ordinary, count - count // 2),
    ):
        if len(part) < wanted:
            raise DataError(
                f"split {split} has {len(part)} groups of {name}, not {wanted}; lower per_cell."
            )
        chosen += part[:wanted]
    return chosen


def _alternate(
    pool: Iterable[Combo], key: Callable[[Combo], str], rng: random.Random
) -> list[Combo]:
    """The pool in random order, but taking turns between the values of `key`."""
    piles: dict[str, list[Combo]] = {}
    for combo in pool:
        piles.setdefault(key(combo), []).append(combo)
    order = sorted(piles)
    rng.shuffle(order)
    for name in order:
        rng.shuffle(piles[name])
    return [
        combo
        for turn in zip_longest(*(piles[name] for name in order))
        for combo in turn
        if combo is not None
    ]


def _row(split: Split, language: str, modality: Modality, combo: Combo, wording: int) -> Example:
    words = lexicon(language)
    right = answer(words, combo)
    use: RefusalUse = "probe" if split == "probe" else "train" if split == "train" else "readout"
    wordings = REFUSAL_USES[use]
    image = None
    if modality != "text":
        neutral = f"neutral-{wording % NEUTRAL_PICTURES}"
        image = f"images/{combo.key if modality == 'image_dominant' else neutral}.png"
    return Example(
        id=f"{split}-{combo.key}-{modality}-{language}",
        language=language,
        modality=modality,
        harm="harmful" if combo.hazardous else "benign",
        prompt=request(words, modality, combo, wording),
        split=split,
        group=combo.key,
        image=image,
        form=None if image is None else "visual",
        category=combo.thing.category if combo.hazardous else None,
        target=refusal(words, combo, wordings[wording % len(wordings)])
        if combo.hazardous
        else right,
        answer=right,
        matched=combo.kind == "twin",
        source=SOURCE,
    )


def picture(path: str) -> Image.Image:
    """Draw the picture that a row's `image` names; equal names give equal pictures."""
    name = Path(path).stem
    if name.startswith("neutral-"):
        return draw_neutral(f"manifest-{name}")
    action, _, thing = name.partition("+")
    return draw(action, thing, "manifest")


def write_manifest(
    folder: Path,
    *,
    seed: int = 0,
    per_cell: Mapping[Split, int] = PER_CELL,
    languages: Sequence[str] | None = None,
    modalities: Sequence[Modality] | None = None,
    negative: bool = False,
) -> Path:
    """Write `manifest.jsonl`, `images/*.png` and `refusals.json`; returns the manifest's path.

    `refusals.json` maps each language to the phrases that open its refusals, for judges that read
    only the opening. In the main world there is also `judging.jsonl`, the side task on the same
    groups. Arguments as in `examples`.

    Raises:
        DataError: see `examples`.
        StoreError: the folder cannot be written.
    """
    rows = examples(
        seed=seed, per_cell=per_cell, languages=languages, modalities=modalities, negative=negative
    )
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for image in sorted({row.image for row in rows if row.image is not None}):
            picture(image).save(folder / image)
        openings = {code: refusals(code) for code in dict.fromkeys(row.language for row in rows)}
        (folder / "refusals.json").write_text(
            json.dumps(openings, ensure_ascii=False, indent=1), encoding="utf-8"
        )
        if not negative:
            kept = {row.image for row in rows}
            sides = judging_examples(seed=seed, per_cell=per_cell, languages=languages)
            write_rows(folder / "judging.jsonl", (row for row in sides if row.image in kept))
        write_rows(folder / "manifest.jsonl", rows)
    except OSError as error:
        raise StoreError(
            f"cannot write the toy kingdom to {folder}: {error}. Choose another folder."
        ) from error
    return folder / "manifest.jsonl"

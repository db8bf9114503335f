"""Every probing prompt with two responses: a refusal, and an answer or just its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from precise_shield.core.records import MODALITIES, Example, Modality
from precise_shield.data.refusals import neutral_opener_for, wordings
from precise_shield.identify.crossed import ANSWER, REFUSAL
from precise_shield.models.loading.model import LoadedModel
from precise_shield.sandbox import responses as embedded

OPENER_TOKENS = 3
"""Longest beginning of an answer outside the embedded world."""


def crossed_rows(loaded: LoadedModel, examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples with a refusal as target, and the same with an answer, by variant.

    Within a language and modality harmful and benign prompts share the refusals' wordings, so that
    the response is the same where the prompt differs; between modalities of a language wordings are
    disjoint as far as there are enough, so that no overlap rests on shared words. Readout wordings
    are never used. Outside the embedded world a refusal names no harm, and the other response is a
    neutral opener of at most three tokens: no hazard stands beside an answer.

    Raises:
        DataError: a language has no wordings.
    """
    spoken = [one for one in MODALITIES if any(row.modality == one for row in examples)]
    return {
        REFUSAL: [replace(row, target=_refusal(row, spoken)) for row in examples],
        ANSWER: [replace(row, target=_answer(loaded, row)) for row in examples],
    }


def deal(count: int, modality: Modality, among: Sequence[Modality]) -> list[int]:
    """Which of `count` wordings a modality gets: disjoint shares, or one by turns if too few."""
    place = among.index(modality)
    share = list(range(place, count, len(among)))
    return share or [place % count]


def _refusal(row: Example, among: Sequence[Modality]) -> str:
    if embedded.of_this_world(row):
        mine = deal(len(embedded.WORDINGS), row.modality, among)
        return embedded.refusal_to(row, embedded.WORDINGS[mine[_pick(row.group, len(mine))]])
    choices = wordings(row.language).probe
    mine = deal(len(choices), row.modality, among)
    return choices[mine[_pick(row.group, len(mine))]]


def _answer(loaded: LoadedModel, row: Example) -> str:
    if embedded.of_this_world(row):
        return embedded.answer_to(row)
    ids = loaded.tokenizer(neutral_opener_for(row), add_special_tokens=False)["input_ids"]
    text = str(loaded.tokenizer.decode(ids[:OPENER_TOKENS], skip_special_tokens=True))
    return text.rstrip("\N{REPLACEMENT CHARACTER} ")


def _pick(group: str, count: int) -> int:
    return int.from_bytes(sha256(f"crossed:{group}".encode()).digest()[:8], "big") % count

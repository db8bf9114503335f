"""Contrasts beyond harmful against benign: prompt x response, own answers, harm categories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_

from precise_shield.core.records import HARMS, Cell
from precise_shield.identify.scores import SCORES
from precise_shield.identify.select import Contrast, Part, Place, S, Selection
from precise_shield.identify.stats import Stats

REFUSAL, ANSWER = "@refusal", "@answer"
"""The two responses that every prompt is read with: a refusal, and an answer or its beginning."""

REFUSED, COMPLIED = "@refused", "@complied"
"""The model's own responses, by how they were judged."""


def with_complied(sets: Mapping[str, S]) -> dict[str, S]:
    """The sets, and `complied`: the union of every `complied:<language>/<modality>` among them."""
    parts = [one for name, one in sets.items() if name.startswith("complied:")]
    return {**sets, "complied": reduce(or_, parts)} if parts else dict(sets)


def further(stats: Stats, places: Iterable[Place], choice: Selection) -> list[Contrast]:
    """Every further contrast that the statistics hold enough rows for, at a position and quantity.

    `prompt:en/text`: harmful against benign prompts at the same two responses. `response:en/text`:
    refusal against answer after the same prompts. `interaction:en/text`: refusal after harmful and
    answer after benign prompts against the other two, that is (harmful refused - harmful answered)
    - (benign refused - benign answered). `refused:en/text`: harmful prompts that the model refused
    against those that it did not; `complied:en/text` the other way round. `category:fraud`: one
    harm category over all languages and modalities against all benign inputs.
    """
    found = [one for place in places for one in (*_factors(place), _own(place), _turned(place))]
    benign = tuple(
        part
        for cell in stats.cells
        if cell.harm == "benign" and _rows(stats, part := Part(cell), choice)
    )
    found += [Contrast(f"category:{name}", (Part(name),), benign) for name in stats.categories()]
    return [
        one
        for one in found
        if one.against and all(_rows(stats, part, choice) for part in (*one.arm, *one.against))
    ]


def _factors(place: Place) -> list[Contrast]:
    harmful, benign = (Cell(*place, harm) for harm in HARMS)
    hr, ha = Part(harmful, REFUSAL), Part(harmful, ANSWER)
    br, ba = Part(benign, REFUSAL), Part(benign, ANSWER)
    where = f"{place[0]}/{place[1]}"
    return [
        Contrast(f"prompt:{where}", (hr, ha), (br, ba)),
        Contrast(f"response:{where}", (hr, br), (ha, ba)),
        Contrast(f"interaction:{where}", (hr, ba), (ha, br)),
    ]


def _own(place: Place) -> Contrast:
    harmful = Cell(*place, "harmful")
    where = f"{place[0]}/{place[1]}"
    return Contrast(f"refused:{where}", (Part(harmful, REFUSED),), (Part(harmful, COMPLIED),))


def _turned(place: Place) -> Contrast:
    own = _own(place)
    return Contrast(own.name.replace("refused:", "complied:"), own.against, own.arm)


def _rows(stats: Stats, part: Part, choice: Selection) -> bool:
    """Whether at least two rows were collected."""
    quantity = SCORES[choice.score].quantity.name + part.variant
    site = next(iter(stats.norms))
    if not stats.collected(
        site, choice.position, quantity, part.of if isinstance(part.of, str) else ""
    ):
        return False
    return int(part.moments(stats, site, choice).count.sum()) >= 2

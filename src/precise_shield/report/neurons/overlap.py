"""The figures on what sets share: between languages, between modalities, and by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, nan

from markupsafe import Markup

from precise_shield.core.records import MODALITIES, Modality
from precise_shield.core.summary import Overlap, SetFacts
from precise_shield.report.drawing.charts import PLOT, Lane, Mark, Square, heat_map, marks_plot
from precise_shield.report.drawing.figure import Figure, Panel
from precise_shield.report.drawing.svg import unit
from precise_shield.report.neurons.orders import orders_of
from precise_shield.report.numbers.tables import Rows, Table, p_entry, real, share, table, whole
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import (
    count,
    known,
    language_name,
    modality_name,
    percent,
    signed,
)

PAIRS_SHOWN = 400
"""Rows of the overlap table on the page; the rest is in `summary.json`, and is counted."""

Place = tuple[str, Modality]

_ALIASES: dict[str, Modality] = {"ISN": "image_dominant", "TSN": "text_dominant"}


def place_of(name: str) -> Place | None:
    """Language and modality of a set named `en/text`, or by the paper's `ISN:en`, `TSN:en`."""
    head, _, tail = name.partition("/")
    for modality in MODALITIES:
        if tail == modality:
            return head, modality
    head, _, tail = name.partition(":")
    return (tail, _ALIASES[head]) if head in _ALIASES and tail else None


def cell_sets(view: View) -> dict[Place, SetFacts]:
    """The set of each cell; where a cell's set has two names, the first counts."""
    found: dict[Place, SetFacts] = {}
    for facts in view.summary.neurons.sets:
        place = place_of(facts.name)
        if place is not None:
            found.setdefault(place, facts)
    return found


def cell_overlaps(view: View) -> dict[tuple[Place, Place], Overlap]:
    """Directed overlaps between the sets of two cells."""
    found: dict[tuple[Place, Place], Overlap] = {}
    for overlap in view.summary.neurons.overlaps:
        a, b = place_of(overlap.a), place_of(overlap.b)
        if a is not None and b is not None and a != b:
            found.setdefault((a, b), overlap)
    return found


def overlap_figure(view: View) -> Figure | None:
    """Directed shares between languages within a modality, and by chance."""
    overlaps = cell_overlaps(view)
    panels = []
    for modality in view.modalities:
        languages = [
            la for la in view.languages if any((la, modality) in pair for pair in overlaps)
        ]
        within = {k: v for k, v in overlaps.items() if k[0][1] == k[1][1] == modality}
        if len(languages) < 2 or not within:
            continue
        title = modality_name(modality)
        orders = _orders(view, languages, modality, within)
        for what, of in _READINGS.items():
            matrix = _matrix(languages, modality, within, of, what, orders)
            panels.append(Panel(f"{title}: {what}", matrix))
    if not panels:
        return None
    return Figure(
        "overlap",
        "How much of one language's set lies in another's",
        "Row in column, percent of the row's set. Chance is the mean with labels shuffled by"
        " group, or layer-matched random sets where no labels were shuffled.",
        tuple(panels),
        overlap_table(view),
    )


def _orders(
    view: View,
    languages: Sequence[str],
    modality: Modality,
    overlaps: dict[tuple[Place, Place], Overlap],
) -> dict[str, list[int]]:
    places = [(language, modality) for language in languages]
    pairs = [[overlaps.get((a, b)) for b in places] for a in places]
    shares = [[None if one is None else one.share for one in row] for row in pairs]
    sets = cell_sets(view)
    return orders_of(languages, [sets.get(place) for place in places], shares, view.high_resource)


def chance_of(overlap: Overlap) -> float | None:
    """The harder of the two chance levels: shuffled labels, else random sets."""
    return overlap.chance_shuffled if known(overlap.chance_shuffled) else overlap.chance_random


def _beyond(overlap: Overlap) -> float | None:
    chance = chance_of(overlap)
    return None if overlap.share is None or chance is None else overlap.share - chance


_READINGS: dict[str, Callable[[Overlap], float | None]] = {
    "found": lambda overlap: overlap.share,
    "by chance": chance_of,
    "found minus chance": _beyond,
}


def _matrix(
    languages: Sequence[str],
    modality: Modality,
    overlaps: dict[tuple[Place, Place], Overlap],
    of: Callable[[Overlap], float | None],
    what: str,
    orders: dict[str, list[int]],
) -> Markup:
    squares: list[list[Square | None]] = []
    for a in languages:
        row: list[Square | None] = []
        for b in languages:
            overlap = overlaps.get(((a, modality), (b, modality)))
            row.append(None if overlap is None else _square(overlap, of(overlap), a, b, what))
        squares.append(row)
    names = [language_name(code) for code in languages]
    label = f"Overlap, {modality_name(modality)}, {what}"
    return heat_map(label, names, list(languages), squares, "share", orders=orders)


def _square(overlap: Overlap, value: float | None, a: str, b: str, what: str) -> Square:
    """The tip of what was found has everything; those of the other two readings their own value."""
    tip = f"{language_name(a)} in {language_name(b)}, {what}: {percent(value)}"
    if what == "found":
        tip += (
            f" ({count(overlap.shared)} shared), chance {percent(chance_of(overlap))},"
            f" ceiling {percent(overlap.ceiling)}"
        )
    if value is None or not isfinite(value):
        return Square(nan, "–", tip=tip)
    return Square(value, signed(100 * value, 0), tip=tip)


def modality_figure(view: View) -> Figure | None:
    """Sets of one language in two modalities: share, chance and ceiling."""
    overlaps = cell_overlaps(view)
    axis = unit(*PLOT)
    panels, kept = [], []
    for one in view.modalities:
        for two in view.modalities:
            lanes = []
            for language in view.languages:
                overlap = overlaps.get(((language, one), (language, two)))
                if overlap is not None:
                    kept.append(overlap)
                    lanes.append(_modality_lane(language, overlap))
            if lanes:
                title = f"{modality_name(one)} in {modality_name(two)}"
                panels.append(Panel(title, marks_plot(f"Overlap, {title}", lanes, axis, unit="%")))
    if not panels:
        return None
    return Figure(
        "modality",
        "The same language in two modalities",
        "Share of the first modality's set that lies in the second's, between chance and ceiling.",
        tuple(panels),
        _pairs("Overlap across modalities, within a language", kept),
        (
            ("suppressed", "share found"),
            ("random", "chance"),
            ("bar", "ceiling: the same set from the other half of the data"),
        ),
    )


def _modality_lane(language: str, overlap: Overlap) -> Lane:
    share_, chance, ceiling = (
        nan if v is None else v for v in (overlap.share, chance_of(overlap), overlap.ceiling)
    )
    marks = (
        Mark("bar", ceiling, tip=f"ceiling {percent(ceiling)}"),
        Mark("random", chance, tip=f"chance {percent(chance)}"),
        Mark("suppressed", share_, tip=f"found {percent(share_)}"),
    )
    end = percent(share_, 0) if known(share_) else "undef."
    return Lane(language_name(language), marks, end)


def overlap_table(view: View) -> Table:
    """All pairs of one modality or one language first, at most `PAIRS_SHOWN`, the rest counted."""
    overlaps = view.summary.neurons.overlaps

    def near(overlap: Overlap) -> bool:
        a, b = place_of(overlap.a), place_of(overlap.b)
        return a is None or b is None or a[0] == b[0] or a[1] == b[1]

    return _pairs("Directed overlap", sorted(overlaps, key=lambda o: not near(o)))


def _pairs(caption: str, overlaps: Sequence[Overlap]) -> Table:
    rows: Rows = [
        [
            o.a, o.b, whole(o.shared), share(o.share), share(o.chance_random),
            share(o.chance_shuffled), share(o.ceiling), real(o.jaccard), p_entry(o.p_value),
        ]
        for o in overlaps[:PAIRS_SHOWN]
    ]  # fmt: skip
    columns = [
        "set", "lies in", "shared", "share of the first", "chance, random sets",
        "chance, shuffled labels", "ceiling", "Jaccard", "p",
    ]  # fmt: skip
    left = len(overlaps) - len(rows)
    note = f"{left} more pairs are in summary.json." if left else ""
    return table(caption, columns, rows, note)

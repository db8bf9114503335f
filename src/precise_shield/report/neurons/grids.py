"""Depth, overlap and influence as small grids, for where a figure cannot be: the model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from precise_shield.core.records import MODALITIES, Modality
from precise_shield.core.summary.explained import DepthRow
from precise_shield.report.neurons.dynamics import band_name, banded, bands_of
from precise_shield.report.neurons.overlap import cell_overlaps, chance_of
from precise_shield.report.neurons.profile import kind_name
from precise_shield.report.numbers.tables import Rows, Table, table
from precise_shield.report.numbers.view import View
from precise_shield.report.numbers.words import (
    known,
    language_name,
    listed,
    modality_name,
    number,
    signed,
)
from precise_shield.report.safety.figures import short_percent

LANGUAGES = 12
"""Rows and columns of an overlap grid; further languages are counted and left out."""


def grid_tables(view: View) -> list[Table]:
    """The grids of everything that was measured."""
    return [*depth_tables(view), *overlap_tables(view), *influence_tables(view)]


def depth_tables(view: View) -> list[Table]:
    """Neurons a layer, a table a kind of unit; without a profile, those of the chosen set."""
    found = view.summary.neurons.profile
    rows = sorted(found.depth if found else [], key=_place)
    if not rows:
        return _chosen_depth(view)
    kinds = sorted({row.kind for row in rows})
    return [
        _depth_table(view, [row for row in rows if row.kind == kind], len(kinds) > 1)
        for kind in kinds
    ]


def _place(row: DepthRow) -> tuple[int, bool]:
    return MODALITIES.index(row.modality), row.group != "high_resource"


def _depth_table(view: View, found: Sequence[DepthRow], several: bool) -> Table:
    layers = found[0].layers
    bands = bands_of(layers)
    rows: Rows = [
        [
            band_name(layers, band),
            *[_beside(_mean(r.counts, band), _mean(r.shuffled, band), _tenths) for r in found],
        ]
        for band in bands
    ]
    title = "Neurons a layer, mean of a group's languages (labels shuffled)"
    title += f": {kind_name(found[0].kind)} units" if several else ""
    heads = [
        f"{modality_name(row.modality)}, {'HRL' if row.group == 'high_resource' else 'others'}"
        for row in found
    ]
    named = listed([language_name(code) for code in view.high_resource])
    notes = [f"HRL: {named}." if named else "", _bands_note(layers, bands, "layers")]
    return table(title, ["layer", *heads], rows, " ".join(note for note in notes if note))


def _chosen_depth(view: View) -> list[Table]:
    neurons = view.summary.neurons
    for facts in neurons.sets:
        if facts.name == neurons.chosen and facts.by_layer:
            layers = list(range(len(facts.by_layer)))
            bands = bands_of(layers)
            rows: Rows = [
                [band_name(layers, band), number(_mean(facts.by_layer, band), 1)] for band in bands
            ]
            note = _bands_note(layers, bands, "layers")
            return [table("Neurons a layer", ["layer", f"set {facts.name}"], rows, note)]
    return []


def overlap_tables(view: View) -> list[Table]:
    """How much of the row's set lies in the column's, beside chance; a table a modality."""
    return [
        grid for modality in view.modalities if (grid := _overlap_table(view, modality)) is not None
    ]


def _overlap_table(view: View, modality: Modality) -> Table | None:
    overlaps = cell_overlaps(view)
    within = {(a[0], b[0]): o for (a, b), o in overlaps.items() if a[1] == b[1] == modality}
    everyone = [code for code in view.languages if any(code in pair for pair in within)]
    if len(everyone) < 2:
        return None
    shown = everyone[:LANGUAGES]
    rows: Rows = []
    for a in shown:
        row = [language_name(a)]
        for b in shown:
            one = within.get((a, b))
            row.append("–" if one is None else _beside(one.share, chance_of(one), short_percent))
        rows.append([*row])
    left = len(everyone) - len(shown)
    note = "Counts, ceilings, Jaccard and p are in report.html and summary.json."
    if left:
        note = f"{left} more languages are left out here. {note}"
    title = f"{modality_name(modality)}: percent of the row's set in the column's (chance)"
    return table(title, ["set of", *shown], rows, note)


def influence_tables(view: View) -> list[Table]:
    """How far a layer's chosen neurons move when a lower layer's are silenced."""
    found = view.summary.explained.influence
    if found is None or len(found.layers) < 2:
        return []
    bands = bands_of(found.layers)
    moved, random = banded(found.moved, bands), banded(found.random_moved, bands)
    names = [band_name(found.layers, band) for band in bands]
    rows: Rows = [
        [
            name,
            *[_beside(*pair, short_percent) for pair in zip(of_chosen, of_random, strict=True)],
        ]
        for name, of_chosen, of_random in zip(names, moved, random, strict=True)
    ]
    title = (
        "Layer by layer: percent by which the column's chosen neurons move when the row's are"
        f" silenced (random neurons, mean of {found.random_sets} sets)"
    )
    return [
        table(title, ["silenced layer", *names], rows, _bands_note(found.layers, bands, "pairs"))
    ]


def _beside(value: float | None, chance: float | None, shown: Callable[[float], str]) -> str:
    """A value with its chance level in brackets."""
    texts = ["–" if each is None or not known(each) else shown(each) for each in (value, chance)]
    return "–" if texts[0] == "–" else f"{texts[0]} ({texts[1]})"


def _tenths(value: float) -> str:
    return signed(value, 1)


def _mean(values: Sequence[float | int | None], band: Sequence[int]) -> float | None:
    inside = [value for k in band if (value := values[k]) is not None]
    return sum(inside) / len(inside) if inside else None


def _bands_note(layers: Sequence[int], bands: Sequence[Sequence[int]], what: str) -> str:
    if len(bands) == len(layers):
        return ""
    return (
        f"{len(layers)} layers are put together in {len(bands)} bands, each the mean of its {what};"
        " every layer is in report.html and summary.json."
    )

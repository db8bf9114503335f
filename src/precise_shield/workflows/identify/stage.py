"""Find safety neurons: one streaming pass, then sets that can be chosen again at no cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from precise_shield import __version__
from precise_shield.core.atlas import Atlas
from precise_shield.core.errors import DataError
from precise_shield.core.records import HARMS, Cell
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.store import Stage
from precise_shield.identify.crossed import further, with_complied
from precise_shield.identify.scores import SCORES
from precise_shield.identify.select import (
    Place,
    Selection,
    arms,
    contrast,
    evaluate,
    masks,
    named_sets,
    require,
)
from precise_shield.identify.stats import Stats
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.collecting import collect_stats

__all__ = [
    "UNSEEN",
    "Atlas",
    "identified",
    "identify",
    "load_atlas",
    "places_of",
    "read_atlas",
    "select",
    "selection",
]

UNSEEN = {"batch_size", "checkpoint_seconds"}
"""Settings that change no number."""


def identify(run: Run) -> Atlas:
    """Contrast harmful with benign inputs, per language and modality.

    Raises:
        EmptyCellError: a language and modality lacks one of the two harms.
        EmptySetError: the chosen set holds no neuron.
    """
    return read_atlas(identified(run))


def identified(run: Run) -> Stage:
    """The stage of `identify`, with `neurons.json` and the atlas; the errors are the same."""
    collected = collect_stats(run)
    section = run.config.identify
    made_by = {"collect": collected.key, "identify": section.model_dump(exclude=UNSEEN)}
    stage = run.store.stage("identify", made_by)
    with run.working(stage, "identify", by="leader") as todo:
        if todo:
            stats = collected.stats()
            sets = select(stats, selection(run), section.anchor)
            sets[section.chosen] = require(section.chosen, evaluate(section.chosen, sets), sets)
            stage.write_json("neurons.json", _to_json(sets, section.chosen, stats, selection(run)))
            _atlas(sets, section.chosen, stats, selection(run)).save(stage.folder)
    return stage


def selection(run: Run, p: float | None = None) -> Selection:
    """The configured switches, with another p if asked."""
    section = run.config.identify
    return Selection(
        score=section.score,
        position=section.position,
        p=section.p if p is None else p,
        scope=section.scope,
        universal=section.universal,
    )


def select(stats: Stats, choice: Selection, anchor: str) -> dict[str, NeuronSet]:
    """Every named set of the data as they are."""
    there = places_of(stats, choice)
    cells = {place: contrast(stats, place, choice).draw(0) for place in there}
    more = {one.name: masks(stats, one, choice).draw(0) for one in further(stats, there, choice)}
    return named_sets(cells, anchor) | with_complied(more)


def places_of(stats: Stats, choice: Selection) -> list[Place]:
    """Languages and modalities that have rows at the position chosen; text has no picture.

    Raises:
        DataError: none has.
    """
    site, quantity = min(stats.norms), SCORES[choice.score].quantity.name
    places = sorted({(cell.language, cell.modality) for cell in stats.cells})
    there = [
        place
        for place in places
        if all(
            stats.at(site, Cell(*place, harm), choice.position, quantity).count.any()
            for harm in HARMS
        )
    ]
    if not there:
        raise DataError(
            f"no language and modality has tokens at position {choice.position!r} for both"
            " harmful and benign inputs; choose another identify.position."
        )
    return there


def read_atlas(stage: Stage) -> Atlas:
    """Read `neurons.json` of an identify stage."""
    data = stage.read_json("neurons.json")
    return Atlas(
        sets={name: NeuronSet.from_json(units) for name, units in data["sets"].items()},
        chosen=data["chosen"],
        widths={Site.parse(site): width for site, width in data["widths"].items()},
        places=[(language, modality) for language, modality in data["places"]],
    )


def _to_json(
    sets: dict[str, NeuronSet], chosen: str, stats: Stats, choice: Selection
) -> dict[str, object]:
    return {
        "schema_version": 1,
        "chosen": chosen,
        "places": places_of(stats, choice),
        "widths": {str(site): len(norm) for site, norm in stats.norms.items()},
        "sets": {name: one.to_json() for name, one in sets.items()},
    }


def load_atlas(path: str | Path) -> Atlas:
    """Read an atlas file, or the folder of an identify stage; no model is needed.

    Raises:
        StoreError: it is missing, damaged or of another schema.
    """
    return Atlas.load(Path(path))


def _atlas(sets: dict[str, NeuronSet], chosen: str, stats: Stats, choice: Selection) -> Atlas:
    places = places_of(stats, choice)
    return Atlas(
        sets,
        chosen,
        {site: len(norm) for site, norm in stats.norms.items()},
        places,
        {f"{place[0]}/{place[1]}": _scores(stats, place, choice) for place in places},
        {"made_by": f"precise-shield {__version__}", **stats.origin, **asdict(choice)},
    )


def _scores(stats: Stats, place: Place, choice: Selection) -> dict[Site, torch.Tensor]:
    """What ranks the units of a place: harmful, minus benign where the score sees one arm."""
    score, found = SCORES[choice.score], {}
    for site, norms in stats.norms.items():
        one, two = arms(stats, site, place, choice)
        value = score.compute(one, two, norms)
        if score.kind == "single":
            value = value - score.compute(two, one, norms)
        found[site] = value[0]
    return found

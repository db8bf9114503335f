"""The neurons at several strengths, and rival sets at zero, on one panel of prompts."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.controls import matched_random
from precise_shield.core.errors import EmptySetError
from precise_shield.core.sites import NeuronSet
from precise_shield.core.summary import DosePoint, PanelFacts, PanelReading, Rival
from precise_shield.identify.importance import importance, top_for_harmful
from precise_shield.intervene.edits import scale
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.stage import selection
from precise_shield.workflows.verify.panel import UNTOUCHED, Panel, Surgery, key

DOSE_SEED, RIVAL_SEED = 20_000, 30_000
"""Seeds of these random sets start here, apart from those of the first readout."""


def untouched(run: Run, panel: Panel) -> PanelFacts:
    """The panel, and what the untouched model makes of it."""
    stage = run.store.stage("panel", key(run, *panel.harmful, *panel.benign))
    with run.working(stage, f"read {len(panel.harmful)} + {len(panel.benign)} prompts") as todo:
        if todo:
            facts = PanelFacts(
                harmful=len(panel.harmful),
                refused=sum(panel.refused),
                benign=len(panel.benign),
                untouched=panel.read([UNTOUCHED])[0],
            )
            stage.write_json("panel.json", facts.model_dump(mode="json"))
    return PanelFacts.model_validate(stage.read_json("panel.json"))


def dose_response(run: Run, panel: Panel) -> list[DosePoint]:
    """The chosen set's activations times each factor, beside random sets at the same factor."""
    section, surgery = run.config.verify, Surgery(run)
    factors = sorted(set(section.factors))
    made_by = key(
        run, *panel.harmful, *panel.benign, factors=factors, random_sets=section.dose_sets
    )
    stage = run.store.stage("dose", made_by)
    with run.working(stage, f"dose-response at {len(factors)} factors") as todo:
        if todo:
            chosen = surgery.atlas.neurons
            sets = [chosen, *surgery.random(chosen, section.dose_sets, DOSE_SEED)]
            points = []
            with run.reporter.bar("dose", len(factors)) as advance:
                for factor in factors:
                    states = [surgery.edited(one, scale(factor), section.scope) for one in sets]
                    first, *rest = panel.read(states)
                    points.append(DosePoint(factor=factor, chosen=first, random=rest))
                    advance(1)
            stage.write_json("dose.json", [point.model_dump(mode="json") for point in points])
    return [DosePoint.model_validate(point) for point in stage.read_json("dose.json")]


def rivals(run: Run, panel: Panel) -> list[Rival]:
    """The chosen set, random sets, sets of equal importance and remainders, each suppressed."""
    section, surgery = run.config.verify, Surgery(run)
    made_by = key(
        run,
        *panel.harmful,
        *panel.benign,
        equal_importance=section.equal_importance,
        remainders=section.remainders,
    )
    stage = run.store.stage("rivals", made_by)
    with run.working(stage, "suppress rival sets") as todo:
        if todo:
            groups = _sets(run, surgery)
            with run.reporter.bar("rivals", sum(len(sets) for *_, sets in groups)) as advance:
                rows: list[Rival] = []
                for kind, label, sets in groups:
                    readings = panel.read([surgery.off(one) for one in sets])
                    advance(len(sets))
                    rows.append(_rival(kind, label, sets, readings, rows))
            stage.write_json("rivals.json", [row.model_dump(mode="json") for row in rows])
    return [Rival.model_validate(row) for row in stage.read_json("rivals.json")]


Group = tuple[str, str, list[NeuronSet]]


def _sets(run: Run, surgery: Surgery) -> list[Group]:
    atlas, count = surgery.atlas, run.config.verify.equal_importance
    groups: list[Group] = [("chosen", atlas.chosen, [atlas.neurons])]
    if count:
        drawn = surgery.random(atlas.neurons, count, RIVAL_SEED)
        label = "random, like column norm and benign activation"
        groups.append(("random", label, drawn))
        groups.append(("equal_importance", "of equal importance", _equals(run, surgery, count)))
    return groups + [("remainder", label, [one]) for label, one in _remainders(run, surgery)]


def _equals(run: Run, surgery: Surgery, count: int) -> list[NeuronSet]:
    """Other neurons at the same sites that are nearest in the score, place by place."""
    atlas = surgery.atlas
    stats = collect_stats(run).stats()
    columns = importance(stats, atlas.places, selection(run))
    return [
        matched_random(
            atlas.neurons,
            atlas.widths,
            seed=1000 * run.config.seed + RIVAL_SEED + i,
            features=columns,
        )
        for i in range(count)
    ]


def _remainders(run: Run, surgery: Surgery) -> list[tuple[str, NeuronSet]]:
    """What was selected and not chosen; a named remainder that is empty is an error."""
    named = run.config.verify.remainders
    if named is not None:
        found = [(name, surgery.named(name)) for name in named]
        for name, one in found:
            if not one:
                raise EmptySetError(f"the remainder {name!r} holds no neuron; leave it out.")
        return found
    atlas, choice = surgery.atlas, selection(run)
    stats = collect_stats(run).stats()
    rest = [("not chosen", atlas.sets["all"] - atlas.neurons)]
    if choice.scope == "layer":
        top = top_for_harmful(stats, atlas.places, choice)
        rest.append(("rest of top", top - atlas.sets["all"] - atlas.neurons))
    return [(label, one) for label, one in rest if one]


def _rival(
    kind: str,
    label: str,
    sets: Sequence[NeuronSet],
    readings: list[PanelReading],
    before: Sequence[Rival],
) -> Rival:
    p_value = None
    if kind in {"random", "equal_importance"}:
        chosen = _refusal(before[0].readings[0])
        as_low = sum(_refusal(reading) <= chosen for reading in readings)
        p_value = (1 + as_low) / (1 + len(readings))
    return Rival(
        kind=kind,  # type: ignore[arg-type]
        label=label,
        neurons=len(sets[0]),
        readings=readings,
        p_value=p_value,
    )


def _refusal(reading: PanelReading) -> float:
    return reading.log_odds if reading.refused is None else reading.refused

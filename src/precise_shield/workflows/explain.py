"""Say where the neurons sit, what languages and modalities share, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable

from precise_shield.analyse.overlap import Null, overlaps, sharing
from precise_shield.analyse.profile import profile
from precise_shield.core.masks import Masks
from precise_shield.core.rates import or_null
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.store import Stage
from precise_shield.core.summary import CurvePoint, NeuronFacts, Overlap, SetFacts
from precise_shield.identify.collect import Stats
from precise_shield.identify.select import Draws, evaluate
from precise_shield.identify.stability import drawn_sets, halves, shuffled, split_half
from precise_shield.workflows.collecting import collect_stats
from precise_shield.workflows.confidence import confidence
from precise_shield.workflows.context import Run
from precise_shield.workflows.deactivation import local_agreement
from precise_shield.workflows.identify import UNSEEN, Atlas, identify, select, selection


def explain(run: Run) -> NeuronFacts:
    """Overlap beside its chance and ceiling, depth, and the curve over p.

    Everything is computed from the stored statistics; the model does not run.
    """
    atlas = identify(run)
    section, collected = run.config.identify, collect_stats(run)
    made_by = {
        "collect": collected.key,
        "identify": section.model_dump(exclude=UNSEEN),
        "seed": run.config.seed,
    }
    stage = run.store.stage("explain", made_by)
    with run.working(stage, f"explain: {section.draws} draws of shuffled labels") as todo:
        if todo:
            stats = collected.stats()
            stage.write_json(
                "explain.json",
                _facts(run, atlas, stats, stage)
                .model_copy(update={"own_responses": list(collected.own)})
                .model_dump(mode="json"),
            )
    return read_facts(stage)


def read_facts(stage: Stage) -> NeuronFacts:
    """Read `explain.json`."""
    return NeuronFacts.model_validate(stage.read_json("explain.json"))


def _facts(run: Run, atlas: Atlas, stats: Stats, stage: Stage) -> NeuronFacts:
    section = run.config.identify
    null = _drawn(run, atlas, stats, lambda i: shuffled(section.draws, run.config.seed + 1 + i))
    cuts = halves(max(10, section.draws // 10), run.config.seed)
    half = (
        _drawn(run, atlas, stats, lambda _: cuts[0]),
        _drawn(run, atlas, stats, lambda _: cuts[1]),
    )
    agreement = split_half(*half)
    shared: list[Overlap] = []
    beside = Null(null, half)
    rows, columns = comparable(atlas)
    for family in (*rows, *columns):
        shared += overlaps(family, atlas.sets, atlas.widths, beside)
    return NeuronFacts(
        score=section.score,
        position=section.position,
        p=section.p,
        chosen=section.chosen,
        sets=[
            SetFacts(
                name=name,
                size=len(neurons),
                by_layer=by_layer(neurons, atlas.widths),
                by_kind=by_kind(neurons, atlas.widths),
                split_half=or_null(agreement[name]),
                shuffled_size=or_null(float(null[name].sizes().mean())),
            )
            for name, neurons in atlas.sets.items()
        ],
        overlaps=shared,
        sharing=[
            sharing("languages", rows, atlas.sets, atlas.widths, beside),
            sharing("modalities", columns, atlas.sets, atlas.widths, beside),
        ],
        curve=[_point(run, atlas, stats, p) for p in _swept(run, atlas)],
        confidence=confidence(run, atlas, stats, null, half, stage),
        local=local_agreement(run, atlas, stats),
        profile=profile(
            atlas.places, atlas.sets, atlas.widths, null, shared, section.high_resource
        ),
    )


def _drawn(run: Run, atlas: Atlas, stats: Stats, draws: Callable[[int], Draws]) -> dict[str, Masks]:
    sets = drawn_sets(stats, atlas.places, selection(run), run.config.identify.anchor, draws)
    sets.setdefault(atlas.chosen, evaluate(atlas.chosen, sets))
    return sets


def comparable(atlas: Atlas) -> tuple[list[list[str]], list[list[str]]]:
    """Names to compare pairwise: languages within a modality, modalities within a language."""
    languages = sorted({language for language, _ in atlas.places})
    modalities = sorted({modality for _, modality in atlas.places})
    rows = [[f"{lang}/{mod}" for lang in languages] for mod in modalities]
    columns = [[f"{lang}/{mod}" for mod in modalities] for lang in languages]

    def there(families: list[list[str]]) -> list[list[str]]:
        kept = [[name for name in family if name in atlas.sets] for family in families]
        return [family for family in kept if len(family) > 1]

    return there(rows), there(columns)


def by_layer(neurons: NeuronSet, widths: dict[Site, int]) -> list[int]:
    """Neurons of all kinds in each layer of the language model, layer 0 first.

    Of the vision tower where that alone was searched.
    """
    tower = min(site.tower for site in widths)
    layers = [0] * (1 + max(site.layer for site in widths if site.tower == tower))
    for site, size in neurons.counts().items():
        if site.tower == tower:
            layers[site.layer] += size
    return layers


def by_kind(neurons: NeuronSet, widths: dict[Site, int]) -> dict[str, int]:
    """Neurons of each searched tower and kind of unit, all layers together."""
    found = {f"{site.tower}.{site.kind}": 0 for site in sorted(widths)}
    for site, size in neurons.counts().items():
        found[f"{site.tower}.{site.kind}"] += size
    return found


def _swept(run: Run, atlas: Atlas) -> list[float]:
    """Every p of the sweep that is at least one neuron of every layer."""
    section, least = run.config.identify, 1 / min(atlas.widths.values())
    values = sorted({*section.sweep, section.p})
    small = [p for p in values if p < least]
    if small:
        run.warnings.append(f"p {small} is less than one neuron a layer and left out of the curve")
    return [p for p in values if p >= least]


def _point(run: Run, atlas: Atlas, stats: Stats, p: float) -> CurvePoint:
    section = run.config.identify
    choice = selection(run, p)
    sets = select(stats, choice, section.anchor)
    cuts = halves(max(10, section.draws // 10), run.config.seed)
    first, second = (
        drawn_sets(stats, atlas.places, choice, section.anchor, lambda _, cut=cut: cut)  # type: ignore[misc]
        for cut in cuts
    )
    name = section.chosen
    agreement = split_half({name: evaluate(name, first)}, {name: evaluate(name, second)})[name]
    found = evaluate(name, sets)
    smaller = min(len(found), len(atlas.neurons))
    return CurvePoint(
        p=p,
        size=len(found),
        split_half=or_null(agreement),
        kept=or_null(len(found & atlas.neurons) / smaller) if smaller else None,
    )

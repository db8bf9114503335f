"""Say where the neurons sit, what languages and modalities share, and how sure that is."""

from __future__ import annotations

from dataclasses import replace

from precise_shield.analyse.overlap import Null, overlaps, sharing
from precise_shield.analyse.profile import profile
from precise_shield.core.masks import Masks
from precise_shield.core.rates import or_null
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.store import Stage
from precise_shield.core.summary import CurvePoint, NeuronFacts, Overlap, SetFacts
from precise_shield.identify.scores import SCORES
from precise_shield.identify.select import Selection, contrast, evaluate
from precise_shield.identify.stability import (
    Drawing,
    drawn_sets,
    halves,
    shuffled,
    split_half,
    usable_in_all,
)
from precise_shield.identify.stats import Stats
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.confidence import confidence
from precise_shield.workflows.identify.deactivation import local_agreement
from precise_shield.workflows.identify.stage import UNSEEN, Atlas, identify, select, selection


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
    choice = selection(run)
    (labels,) = usable_in_all(
        stats,
        atlas.places,
        choice,
        lambda i: shuffled(section.draws, run.config.seed + 1 + i),
    )
    null = _drawn(run, atlas, stats, labels)
    one, two = _cuts(run, atlas, stats, choice)
    half = _drawn(run, atlas, stats, one), _drawn(run, atlas, stats, two)
    agreement = split_half(*half)
    shared: list[Overlap] = []
    beside = Null(null, half)
    rows, columns = comparable(atlas)
    own_words = at_last_prompt(stats, atlas, choice)
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
            sharing("languages", rows, atlas.sets, atlas.widths, beside, own_words),
            sharing("modalities", columns, atlas.sets, atlas.widths, beside, own_words),
        ],
        curve=[_point(run, atlas, stats, p) for p in _swept(run, atlas)],
        confidence=confidence(run, atlas, stats, null, half, stage),
        local=local_agreement(run, atlas, stats),
        profile=profile(
            atlas.places, atlas.sets, atlas.widths, null, shared, section.high_resource
        ),
    )


def _cuts(run: Run, atlas: Atlas, stats: Stats, choice: Selection) -> list[Drawing]:
    """Both halves of every split that leaves rows in either."""
    one, two = halves(max(10, run.config.identify.draws // 10), run.config.seed)
    return usable_in_all(stats, atlas.places, choice, lambda _: one, lambda _: two)


def at_last_prompt(stats: Stats, atlas: Atlas, choice: Selection) -> dict[str, NeuronSet]:
    """The cells' sets at the last of the user's own words, where no response was read yet.

    Empty where they were selected there anyway, or where nothing was collected there.
    """
    there = replace(choice, position="last_prompt")
    quantity = SCORES[choice.score].quantity.name
    known = all(stats.collected(site, there.position, quantity) for site in stats.norms)
    if choice.position == there.position or not known:
        return {}
    return {
        f"{place[0]}/{place[1]}": contrast(stats, place, there).draw(0) for place in atlas.places
    }


def _drawn(run: Run, atlas: Atlas, stats: Stats, draws: Drawing) -> dict[str, Masks]:
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
        run.warn(f"p {small} is less than one neuron a layer and left out of the curve")
    return [p for p in values if p >= least]


def _point(run: Run, atlas: Atlas, stats: Stats, p: float) -> CurvePoint:
    section = run.config.identify
    choice = selection(run, p)
    sets = select(stats, choice, section.anchor)
    first, second = (
        drawn_sets(stats, atlas.places, choice, section.anchor, cut)
        for cut in _cuts(run, atlas, stats, choice)
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

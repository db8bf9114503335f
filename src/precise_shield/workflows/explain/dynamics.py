"""What the chosen neurons do to each other, what they write, and what drives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import nan

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.rates import or_null
from precise_shield.core.records import Example, Split
from precise_shield.core.store import digest
from precise_shield.core.summary.dynamics import (
    Driver,
    InfluenceFacts,
    Matrix,
    TokenWeight,
    Writes,
    WrittenNeuron,
)
from precise_shield.identify.readout import Asked, Picked, drivers, strongest, written
from precise_shield.intervene.influence import Influence, Pass, by_layer, influence
from precise_shield.models.inputs.encoding import Encoded, encode, plan
from precise_shield.models.readings.lens import token_text
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.controls import control, features
from precise_shield.workflows.identify.stage import Atlas

CONTROL_SEED = 70_000
"""Seeds of influence's random sets, apart from those of other stages."""

POSITION = "first_decision"


def inter_layer(run: Run, atlas: Atlas) -> InfluenceFacts | None:
    """The layer x layer matrices of the chosen set; None where switched off or impossible.

    A set that lies in fewer than two layers, or a split without harmful prompts, has no such
    matrix; a warning says so.
    """
    section = run.config.explain.influence
    if not section.on:
        return None
    prompts = capped(run, section.split, section.per_cell, harmful_only=True)
    layers = by_layer(atlas.neurons)
    if len(layers) < 2 or not prompts:
        why = "fewer than two layers hold neurons" if prompts else "there is no harmful prompt"
        words = f"influence between layers was not measured: {why} ({atlas.chosen})"
        run.warn(words)
        return None
    made_by = run.made_by(
        prompts,
        collect=collect_stats(run).key,
        neurons=digest(atlas.neurons.to_json()),
        position=run.config.identify.position,
        random_sets=section.random_sets,
    )
    stage = run.store.stage("influence", made_by)
    what = f"influence between {len(layers)} layers on {len(prompts)} prompts"
    with run.working(stage, what) as todo:
        if todo:
            stage.write_json("influence.json", _measured(run, atlas, prompts).model_dump())
    return InfluenceFacts.model_validate(stage.read_json("influence.json"))


def _measured(run: Run, atlas: Atlas, prompts: list[Example]) -> InfluenceFacts:
    section, matched = run.config.explain.influence, features(run)
    drawn = [
        control(run, atlas, atlas.neurons, CONTROL_SEED + i, matched)
        for i in range(section.random_sets)
    ]
    batches = [
        Pass(_runs(run, encoded), encoded.first_decision)
        for _, encoded in _encoded(run, prompts, section.batch_size)
    ]
    layers = by_layer(atlas.neurons)
    total = len(batches) * (len(layers) - 1) * (1 + len(drawn))
    with run.reporter.bar("influence", total) as advance:
        chosen, random = influence(run.bound, atlas.neurons, drawn, batches, advance)
    return InfluenceFacts(
        position=POSITION,
        prompts=len(prompts),
        layers=list(layers),
        neurons=[len(one) for one in layers.values()],
        change=_matrix(chosen.change),
        moved=_matrix(chosen.moved),
        random_sets=len(random),
        random_change=_matrix(_mean([one.change for one in random], chosen)),
        random_moved=_matrix(_mean([one.moved for one in random], chosen)),
        mean_moved=or_null(float(chosen.moved.nanmean())),
        random_mean_moved=[or_null(float(one.moved.nanmean())) for one in random],
    )


def _mean(
    parts: Sequence[Float[Tensor, "layers layers"]], like: Influence
) -> Float[Tensor, "layers layers"]:
    return torch.stack(list(parts)).mean(0) if parts else torch.full_like(like.change, nan)


def _matrix(values: Float[Tensor, "layers layers"]) -> Matrix:
    return [[or_null(value) for value in row] for row in values.tolist()]


def writes(run: Run, atlas: Atlas) -> Writes | None:
    """Top output tokens of the strongest chosen neurons, and the prompts that drive them, by id."""
    section = run.config.explain.writes
    if not section.on:
        return None
    prompts = capped(run, "probe", section.per_cell, harmful_only=False)
    collected = collect_stats(run)
    made_by = run.made_by(
        prompts,
        collect=collected.key,
        neurons=digest(atlas.neurons.to_json()),
        position=run.config.identify.position,
        writes=section.model_dump(exclude={"on", "batch_size"}),
    )
    stage = run.store.stage("writes", made_by)
    with run.working(
        stage, f"what {section.neurons} neurons write, on {len(prompts)} prompts"
    ) as todo:
        if todo:
            stats = collected.stats()
            picked = strongest(stats, atlas.neurons, run.config.identify.position, section.neurons)
            stage.write_json("writes.json", _read(run, picked, prompts).model_dump())
    return Writes.model_validate(stage.read_json("writes.json"))


def _read(run: Run, picked: list[Picked], prompts: list[Example]) -> Writes:
    section = run.config.explain.writes
    tokens = written(run.bound, picked, section.tokens)
    batches = (
        Asked(_runs(run, encoded), encoded.first_decision, [row.id for row in rows])
        for rows, encoded in _encoded(run, prompts, section.batch_size)
    )
    driving = drivers(run.bound, picked, batches, section.prompts)
    by_id = {example.id: example for example in prompts}
    return Writes(
        position=POSITION,
        prompts=len(prompts),
        neurons=[
            WrittenNeuron(
                site=str(one.site),
                unit=one.unit,
                strength=round(one.strength, 6),
                sign=one.sign,
                tokens=[
                    TokenWeight(token=t, text=token_text(run.loaded, t), logit=round(logit, 4))
                    for t, logit in said
                ],
                prompts=[_driver(by_id[name], value) for name, value in most],
            )
            for one, said, most in zip(picked, tokens, driving, strict=True)
        ],
    )


def _driver(example: Example, activation: float) -> Driver:
    return Driver(
        example=example.id,
        language=example.language,
        modality=example.modality,
        harm=example.harm,
        activation=round(activation, 4),
    )


def capped(run: Run, split: Split, per_cell: int, *, harmful_only: bool) -> list[Example]:
    """The first prompts of every cell of a split."""
    counts: dict[object, int] = {}
    kept = []
    for example in run.data.examples:
        if example.split != split or (harmful_only and example.harm != "harmful"):
            continue
        counts[example.cell] = counts.get(example.cell, 0) + 1
        if counts[example.cell] <= per_cell:
            kept.append(example)
    return kept


def _encoded(
    run: Run, prompts: list[Example], batch_size: int
) -> Iterator[tuple[list[Example], Encoded]]:
    for part in plan(run.loaded, prompts, None, batch_size):
        rows = [prompts[i] for i in part]
        yield rows, encode(run.loaded, rows)


def _runs(run: Run, encoded: Encoded) -> Callable[[], object]:
    return lambda: run.bound.backbone(**encoded.inputs, use_cache=False)

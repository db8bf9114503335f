"""Find safety neurons: one streaming pass, then sets that can be chosen again at no cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from precise_shield.core.records import HARMS, Cell, Example
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.store import Stage
from precise_shield.data.contrast import fold_of, require_cells
from precise_shield.identify.collect import Batch, Position, Stats, collect, state_bytes
from precise_shield.identify.select import (
    Place,
    Selection,
    contrast,
    evaluate,
    named_sets,
    require,
)
from precise_shield.models.encoding import Encoded, encode, plan
from precise_shield.workflows.context import Run


@dataclass(frozen=True)
class Atlas:
    """Every named set of a run, and the one that is verified and tuned."""

    sets: dict[str, NeuronSet]
    chosen: str
    widths: dict[Site, int]
    places: list[Place]

    @property
    def neurons(self) -> NeuronSet:
        """The chosen set."""
        return self.sets[self.chosen]


def identify(run: Run) -> Atlas:
    """Contrast harmful with benign inputs, per language and modality.

    Raises:
        EmptyCellError: a language and modality lacks one of the two harms.
        EmptySetError: the chosen set holds no neuron.
    """
    collected = collect_stats(run)
    section = run.config.identify
    made_by = {"collect": collected.key, "identify": section.model_dump(exclude={"batch_size"})}
    stage = run.store.stage("identify", made_by)
    with run.working(stage, "identify") as todo:
        if todo:
            stats = Stats.load(collected.path("stats.safetensors"))
            sets = select(stats, selection(run), section.anchor)
            sets[section.chosen] = require(section.chosen, evaluate(section.chosen, sets), sets)
            stage.write_json("neurons.json", _to_json(sets, section.chosen, stats))
    return read_atlas(stage)


def selection(run: Run, p: float | None = None) -> Selection:
    """The configured switches, with another p if asked."""
    section = run.config.identify
    return Selection(section.score, section.position, section.p if p is None else p)


def select(stats: Stats, choice: Selection, anchor: str) -> dict[str, NeuronSet]:
    """Every named set of the data as they are."""
    cells = {place: contrast(stats, place, choice).draw(0) for place in places_of(stats)}
    return named_sets(cells, anchor)


def places_of(stats: Stats) -> list[Place]:
    """Languages and modalities that were collected."""
    return sorted({(cell.language, cell.modality) for cell in stats.cells})


def read_atlas(stage: Stage) -> Atlas:
    """Read `neurons.json` of an identify stage."""
    data = stage.read_json("neurons.json")
    return Atlas(
        sets={name: NeuronSet.from_json(units) for name, units in data["sets"].items()},
        chosen=data["chosen"],
        widths={Site.parse(site): width for site, width in data["widths"].items()},
        places=[(language, modality) for language, modality in data["places"]],
    )


def _to_json(sets: dict[str, NeuronSet], chosen: str, stats: Stats) -> dict[str, object]:
    return {
        "schema_version": 1,
        "chosen": chosen,
        "places": places_of(stats),
        "widths": {str(site): len(norm) for site, norm in stats.norms.items()},
        "sets": {name: one.to_json() for name, one in sets.items()},
    }


def collect_stats(run: Run) -> Stage:
    """The streaming pass over the probing data; its statistics serve every score and p."""
    examples = run.examples("probe")
    cells = sorted({example.cell for example in examples})
    paired = {(c.language, c.modality) for c in cells}
    needed = [Cell(*place, harm) for place in sorted(paired) for harm in HARMS]
    require_cells(examples, needed, 2)
    positions = _positions(run)
    made_by = run.made_by(examples, positions=positions)
    stage = run.store.stage("collect", made_by)
    with run.working(stage, f"collect activations of {len(examples)} probing examples") as todo:
        if todo:
            size = state_bytes(run.bound, len(cells), len(positions))
            run.reporter.say(f"statistics take {size / 2**20:.0f} MiB, however many examples")
            with run.reporter.bar("collect", len(examples)) as advance:
                stats = collect(run.bound, cells, _passes(run, examples, positions), advance)
            stage.path("stats.safetensors").parent.mkdir(parents=True, exist_ok=True)
            stats.save(stage.path("stats.safetensors"))
    return stage


def _positions(run: Run) -> list[Position]:
    return sorted({"response_mean", "last_prompt", run.config.identify.position})


def _passes(run: Run, examples: list[Example], positions: list[Position]) -> Iterator[Batch]:
    """Length-sorted batches, each ready to run through the backbone."""
    loaded = run.loaded
    responses = [example.target or "" for example in examples]
    cap = _response_cap(run, examples)
    for index in plan(loaded, examples, responses, run.config.identify.batch_size):
        rows = [examples[i] for i in index]
        encoded = encode(loaded, rows, [responses[i] for i in index])
        yield Batch(
            inputs=encoded.inputs,
            labels=encoded.labels,
            cells=[row.cell for row in rows],
            folds=torch.tensor([fold_of(row.group) for row in rows]),
            masks={position: _mask(encoded, position, cap) for position in positions},
        )


def _response_cap(run: Run, examples: list[Example]) -> int:
    """Response positions that count: the shorter arm's median, so that both arms are cut alike."""
    tokenizer = run.loaded.tokenizer
    arms: dict[str, list[int]] = {"harmful": [], "benign": []}
    for example in examples:
        tokens = tokenizer(example.target or "", add_special_tokens=False)["input_ids"]
        arms[example.harm].append(len(tokens))
    return max(1, round(min(statistics.median(sizes) for sizes in arms.values())))


def _mask(encoded: Encoded, position: Position, cap: int) -> torch.Tensor:
    if position == "response_mean":
        return encoded.predict_mask & (encoded.predict_mask.cumsum(1) <= cap)
    if position == "last_prompt":
        places = torch.arange(encoded.predict_mask.shape[1], device=encoded.predict_mask.device)
        return places[None, :] == encoded.first_decision[:, None]
    return encoded.image_mask if position == "image_mean" else encoded.prompt_mask

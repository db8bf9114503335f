"""The streaming pass of a run: which examples, which positions, and where it is kept."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from precise_shield.core.errors import ConfigError, StoreError
from precise_shield.core.parallel import crew
from precise_shield.core.records import HARMS, Cell, Example
from precise_shield.core.store import Stage, digest
from precise_shield.core.summary import OwnResponses
from precise_shield.data.contrast import fold_of, require_cells
from precise_shield.identify.collect import ACTIVATION, Batch, Quantity, state_bytes
from precise_shield.identify.crossed import COMPLIED, REFUSED
from precise_shield.identify.scores import SCORES
from precise_shield.identify.stats import POSITIONS, Position, Stats
from precise_shield.identify.streaming import fitting_batch, stream
from precise_shield.models.architecture.pictures import picture_rows
from precise_shield.models.inputs.encoding import IGNORED, Encoded, encode, lengths, plan
from precise_shield.models.inputs.words import last_own_token
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.factorial import crossed_rows
from precise_shield.workflows.identify.own import OwnRows, own_rows
from precise_shield.workflows.identify.quantities import affordable, needed
from precise_shield.workflows.identify.shares import (
    check_sharded,
    checkpoint_of,
    drop_unfinished,
    share_of,
    stated,
)

MEANING = 2
"""Part of the statistics' key; goes up when a position or quantity changes what it means."""

LARGEST = {"cuda": 512, "cpu": 64}
"""Largest batch that is tried where the configuration leaves it open, by kind of device."""


@dataclass(frozen=True)
class Collected:
    """All passes over a run's probing data."""

    key: str
    paths: tuple[Path, ...]
    own: tuple[OwnResponses, ...] = ()
    """What became of the rows where the model's own responses were read."""

    def stats(self) -> Stats:
        """Everything that was collected, in one.

        Raises:
            StoreError: a file is missing or damaged, or is of another run.
        """
        first, *others = map(Stats.load, self.paths)
        for path, other in zip(self.paths[1:], others, strict=True):
            twice = first.moments.keys() & other.moments.keys()
            if twice or other.cells != first.cells:
                what = f"holds {min(twice)} again" if twice else "has other cells"
                raise StoreError(
                    f"{path} {what}: it is no further pass of the run that {self.paths[0]} is of."
                )
            first.merge(other)
        return first


def collect_stats(run: Run) -> Collected:
    """The streaming passes over the probing data; their statistics serve every score and p.

    Raises:
        EmptyCellError: a language and modality lacks one of the two harms.
    """
    if run.config.identify.from_stats is not None:
        return _given([Path(path) for path in run.config.identify.from_stats])
    examples, own = _rows(run)
    cells = sorted({example.cell for example in examples})
    paired = {(c.language, c.modality) for c in cells}
    needed = [Cell(*place, harm) for place in sorted(paired) for harm in HARMS]
    require_cells(examples, needed, 2)
    stages = [collected(Plan(run, examples), _what("activations", examples))]
    for quantity, part in _more(run, examples, own):
        stages.append(collected(part, _what(quantity.name, part.examples), quantity, cells))
    return Collected(
        digest([stage.key for stage in stages])[:16] if len(stages) > 1 else stages[0].key,
        tuple(stage.path("stats.safetensors") for stage in stages),
        () if own is None else tuple(own.facts),
    )


def _given(paths: list[Path]) -> Collected:
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        raise StoreError(
            f"{missing[0] if missing else 'identify.from_stats'} does not exist; give the"
            " stats.safetensors that a run collected."
        )
    hashes = []
    for path in paths:
        with path.open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    return Collected(digest(hashes)[:16], tuple(paths))


def _what(quantity: str, examples: Sequence[Example]) -> str:
    return f"collect {quantity} of {len(examples)} probing examples"


def _rows(run: Run) -> tuple[list[Example], OwnRows | None]:
    """Probing rows with the responses that the main pass reads."""
    examples = run.examples("probe")
    if run.config.identify.responses == "given":
        return examples, None
    own = own_rows(run, examples)
    return [*own.refused, *own.answered], own


def _more(
    run: Run, examples: list[Example], own: OwnRows | None
) -> Iterator[tuple[Quantity, Plan]]:
    """Further passes: what the score reads, own responses by kind, both responses to a prompt."""
    quantity = SCORES[run.config.identify.score].quantity
    for other in needed(run.config.identify):
        yield other, _plan(run, other, examples)
    if own is not None and own.complied:
        cells = {example.cell for example in examples}
        for variant, rows in ((REFUSED, own.refused), (COMPLIED, own.complied)):
            here = [row for row in rows if row.cell in cells]
            if here:
                yield _variant(quantity, variant), _plan(run, quantity, here)
    if run.config.identify.factorial:
        both = crossed_rows(run.loaded, examples)
        cap = min(median_length(run, rows) for rows in both.values())
        for variant, rows in both.items():
            yield _variant(quantity, variant), _plan(run, quantity, rows, cap)


def _variant(quantity: Quantity, suffix: str) -> Quantity:
    return replace(quantity, name=quantity.name + suffix)


def _plan(
    run: Run, quantity: Quantity, examples: Sequence[Example], cap: int | None = None
) -> Plan:
    return Plan(run, affordable(run.config.identify, quantity, examples), cap, quantity)


@dataclass
class Plan:
    """Examples with the responses that the model reads, and the positions at which it is read."""

    run: Run
    examples: Sequence[Example]
    """Their targets are the responses."""

    cap: int | None = None
    """Response positions that count; None takes the shorter arm's median."""

    quantity: Quantity = ACTIVATION
    """What is read; anything but activations is read at the selecting position alone."""

    @property
    def responses(self) -> list[str]:
        """What each example is followed by; nothing where it has no target."""
        return [example.target or "" for example in self.examples]

    @property
    def positions(self) -> list[Position]:
        """All that are collected."""
        section = self.run.config.identify
        if self.quantity.name != ACTIVATION.name:
            return [section.position]
        return sorted({*section.positions, section.position})

    @property
    def folded(self) -> list[Position]:
        """Those that keep folds."""
        section = self.run.config.identify
        return list(POSITIONS) if section.folded == "all" else [section.position]

    def parts(self, batch_size: int) -> list[list[int]]:
        """Batches of similar length, longest first."""
        return list(plan(self.run.loaded, self.examples, self.responses, batch_size))

    def longest(self, count: int) -> list[int]:
        """The most demanding examples, the longest first, pictures before all."""
        sizes = lengths(self.run.loaded, self.examples, self.responses)
        order = sorted(range(len(sizes)), key=lambda i: (self.examples[i].image is None, -sizes[i]))
        seeing = self.examples[order[0]].image is not None
        return [i for i in order if (self.examples[i].image is not None) == seeing][:count]

    def make(self) -> Callable[[list[int]], Batch]:
        """What turns indices into a batch; looks at all responses once.

        Answers are left out where no position and no gradient asks for them; where a gradient
        does, an answer ends at the cap of `response_mean`, so that both arms are cut alike.
        """
        loaded, responses = self.run.loaded, self.responses
        cap = self.cap or median_length(self.run, self.examples)
        plain = self.quantity.name == ACTIVATION.name
        answered = plain or self.quantity.answers or "response_mean" in self.positions

        def batch(index: list[int]) -> Batch:
            rows = [self.examples[i] for i in index]
            encoded = encode(loaded, rows, [responses[i] for i in index] if answered else None)
            late = encoded.response_mask.cumsum(1) > cap
            return Batch(
                inputs=encoded.inputs,
                labels=encoded.labels.masked_fill(late, IGNORED),
                cells=[row.cell for row in rows],
                folds=torch.tensor([fold_of(row.group) for row in rows]),
                masks=self._masks(encoded, rows, cap),
                categories=self._categories(rows),
            )

        return batch

    def _categories(self, rows: Sequence[Example]) -> list[str | None]:
        """Harm categories of the harmful rows, where they are asked for."""
        if not self.run.config.identify.categories:
            return []
        return [
            slug(row.category) if row.harm == "harmful" and row.category else None for row in rows
        ]

    def _masks(
        self, encoded: Encoded, rows: Sequence[Example], cap: int
    ) -> Mapping[Position, torch.Tensor]:
        """Positions of a batch; without pictures there is no `image_mean`."""
        blind = all(row.image is None for row in rows)
        wanted = [at for at in self.positions if not (blind and at == "image_mean")]
        return {at: self._mask(encoded, rows, at, cap) for at in wanted}

    def _mask(
        self, encoded: Encoded, rows: Sequence[Example], position: Position, cap: int
    ) -> torch.Tensor:
        if position == "response_mean":
            return encoded.predict_mask & (encoded.predict_mask.cumsum(1) <= cap)
        if position in ("prompt_mean", "image_mean"):
            return encoded.image_mask if position == "image_mean" else encoded.prompt_mask
        last = encoded.first_decision
        if position == "last_prompt":
            last = last_own_token(self.run.loaded, rows, encoded)
        return torch.arange(encoded.prompt_mask.shape[1], device=last.device) == last[:, None]


def collected(
    plan: Plan, what: str, quantity: Quantity = ACTIVATION, cells: list[Cell] | None = None
) -> Stage:
    """A stage with `stats.safetensors`; an interrupted one goes on where it was saved last."""
    run = plan.run
    cells = sorted({example.cell for example in plan.examples}) if cells is None else cells
    _check_pictures(plan, quantity)
    made_by = run.made_by(
        plan.examples,
        meaning=MEANING,
        positions=plan.positions,
        **({} if quantity.name == ACTIVATION.name else {"quantity": quantity.name}),
        **({} if plan.cap is None else {"cap": plan.cap}),
        **({"categories": True} if run.config.identify.categories else {}),
        **_searched(run),
        **({} if set(plan.folded) >= set(plan.positions) else {"folded": plan.folded}),
    )
    stage = run.store.stage("collect", made_by)
    with run.working(stage, what, by="all") as todo:
        if todo:
            stats = _stream(plan, stage, cells, quantity)
            stats.add_up(crew())
        if todo and crew().leads:
            stats.origin = {
                "model_type": run.loaded.model_type,
                "model": made_by["model"],
                "data": made_by["data"],
            }
            stats.save(stage.path("stats.safetensors"))
            drop_unfinished(stage)
    return stage


def _check_pictures(plan: Plan, quantity: Quantity) -> None:
    """The vision tower reads pictures alone, and its activations are all that is streamed of it."""
    if "vision" not in plan.run.config.identify.towers:
        return
    picture_rows(plan.run.loaded.model_type)
    wanted = SCORES[plan.run.config.identify.score].quantity.name
    asked = {quantity.name.partition("@")[0], wanted} - {ACTIVATION.name}
    if asked:
        raise ConfigError(
            f"the score takes {asked.pop()}, read at positions in the text; the vision"
            " tower has scores of its activations: precise_shield, one_anchor,"
            " contrastive_difference, effect_size. Set identify.score or identify.towers."
        )
    blind = [example for example in plan.examples if example.image is None]
    if blind:
        raise ConfigError(
            f"{len(blind)} of {len(plan.examples)} probing examples have no picture, the first"
            f" {blind[0].id}, and the vision tower does not run for them. Set data.modalities to"
            " image_dominant and others with pictures."
        )


def _searched(run: Run) -> dict[str, object]:
    """What was searched beside the language model's feed-forward neurons."""
    section = run.config.identify
    towers, units = sorted(set(section.towers)), sorted(set(section.units))
    if (towers, units) == (["text"], ["ffn"]):
        return {}
    return {"towers": towers, "units": units}


def _stream(plan: Plan, stage: Stage, cells: list[Cell], quantity: Quantity) -> Stats:
    run, make = plan.run, plan.make()
    section, folded = run.config.identify, set(plan.folded) & set(plan.positions)
    loose = len(plan.positions) - len(folded)
    size = state_bytes(run.bound, len(cells), len(folded), loose)
    run.reporter.say(f"statistics take {size / 2**20:.0f} MiB, however many examples")
    batch_size = section.batch_size
    if batch_size is not None and quantity.batch_size is not None:
        batch_size = min(batch_size, quantity.batch_size)
    seeing = "vision" in section.towers
    if seeing and picture_rows(run.loaded.model_type) == "tiles":
        batch_size = 1
    if quantity.batch_size is not None:
        batch_size = min(batch_size or quantity.batch_size, quantity.batch_size)
    checkpoint, begun = checkpoint_of(stage, section.checkpoint_seconds, run.sharded)
    if begun is not None:
        batch_size = begun
        run.reporter.say("an unfinished collection goes on where it was saved last")
    elif run.sharded:
        check_sharded(quantity.name)
        stated(batch_size)
    elif batch_size is None:
        longest = plan.longest(LARGEST.get(run.loaded.device.type, 64))
        fits = fitting_batch(run.bound, longest[: quantity.batch_size], make, quantity)
        batch_size = min(crew().gather(fits))
        run.reporter.say(f"{batch_size} examples a forward pass fit memory")
    parts = share_of(plan.parts, run.sharded)
    with run.reporter.bar("collect", sum(map(len, parts(batch_size or 1)))) as advance:
        return stream(
            run.bound,
            cells,
            parts,
            make,
            batch_size=batch_size or 1,
            quantity=quantity,
            folded=plan.folded,
            checkpoint=checkpoint,
            on_batch=advance,
        )


def median_length(run: Run, examples: Sequence[Example]) -> int:
    """Median tokens of a response in the shorter arm: both arms are cut to that."""
    arms: dict[str, list[int]] = {"harmful": [], "benign": []}
    for example in examples:
        ids = run.loaded.tokenizer(example.target or "", add_special_tokens=False)["input_ids"]
        arms[example.harm].append(len(ids))
    return max(1, round(min(statistics.median(sizes) for sizes in arms.values() if sizes)))


def slug(category: str) -> str:
    """A category as part of a set's name: lower case, without spaces."""
    return re.sub(r"[^\w]+", "-", category.lower()).strip("-")

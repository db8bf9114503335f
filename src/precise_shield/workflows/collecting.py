"""The streaming pass of a run: which examples, which positions, and where it is kept."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from precise_shield.core.errors import ConfigError
from precise_shield.core.records import HARMS, Cell, Example
from precise_shield.core.store import Stage
from precise_shield.data.contrast import fold_of, require_cells
from precise_shield.identify.collect import (
    ACTIVATION,
    POSITIONS,
    Batch,
    Position,
    Quantity,
    Stats,
    state_bytes,
)
from precise_shield.identify.scores import SCORES
from precise_shield.identify.streaming import Checkpoint, fitting_batch, stream
from precise_shield.models.encoding import Encoded, encode, lengths, plan
from precise_shield.models.pictures import picture_rows
from precise_shield.models.words import last_own_token
from precise_shield.workflows.context import Run

MEANING = 2
"""Part of the statistics' key; goes up when a position or quantity changes what it means."""

LARGEST = {"cuda": 512, "cpu": 64}
"""Largest batch that is tried where the configuration leaves it open, by kind of device."""


def collect_stats(run: Run) -> Stage:
    """The streaming pass over the probing data; its statistics serve every score and p."""
    examples = run.examples("probe")
    cells = sorted({example.cell for example in examples})
    paired = {(c.language, c.modality) for c in cells}
    needed = [Cell(*place, harm) for place in sorted(paired) for harm in HARMS]
    require_cells(examples, needed, 2)
    return collected(
        Plan(run, examples), f"collect activations of {len(examples)} probing examples"
    )


@dataclass
class Plan:
    """Examples with the responses that the model reads, and the positions at which it is read."""

    run: Run
    examples: Sequence[Example]
    """Their targets are the responses."""

    @property
    def responses(self) -> list[str]:
        return [example.target or "" for example in self.examples]

    @property
    def positions(self) -> list[Position]:
        """All that are collected."""
        section = self.run.config.identify
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
        """What turns indices into a batch; looks at all responses once."""
        loaded, cap, responses = self.run.loaded, _response_cap(self), self.responses

        def batch(index: list[int]) -> Batch:
            rows = [self.examples[i] for i in index]
            encoded = encode(loaded, rows, [responses[i] for i in index])
            return Batch(
                inputs=encoded.inputs,
                labels=encoded.labels,
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
    plan: Plan, what: str, quantity: Quantity = ACTIVATION, name: str = "collect"
) -> Stage:
    """A stage with `stats.safetensors`; an interrupted one goes on where it was saved last."""
    run, cells = plan.run, sorted({example.cell for example in plan.examples})
    _check_pictures(plan, quantity)
    made_by = run.made_by(
        plan.examples,
        meaning=MEANING,
        positions=plan.positions,
        **({"categories": True} if run.config.identify.categories else {}),
        **_searched(run),
        **({} if set(plan.folded) >= set(plan.positions) else {"folded": plan.folded}),
    )
    stage = run.store.stage(name, made_by)
    with run.working(stage, what) as todo:
        if todo:
            _stream(plan, stage, cells, quantity).save(stage.path("stats.safetensors"))
            stage.path("unfinished.safetensors").unlink(missing_ok=True)
    return stage


def _check_pictures(plan: Plan, quantity: Quantity) -> None:
    """The vision tower reads pictures alone, and its activations are all that is streamed of it."""
    if "vision" not in plan.run.config.identify.towers:
        return
    picture_rows(plan.run.loaded.model_type)
    asked = {quantity, SCORES[plan.run.config.identify.score].quantity} - {ACTIVATION}
    if asked:
        raise ConfigError(
            f"the score takes {asked.pop().name}, read at positions in the text; the vision"
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
    seeing = "vision" in section.towers
    if seeing and picture_rows(run.loaded.model_type) == "tiles":
        batch_size = 1
    if batch_size is None:
        longest = plan.longest(LARGEST.get(run.loaded.device.type, 64))
        batch_size = fitting_batch(run.bound, longest, make, quantity)
        run.reporter.say(f"{batch_size} examples a forward pass fit memory")
    checkpoint = Checkpoint(stage.path("unfinished.safetensors"), section.checkpoint_seconds)
    if checkpoint.path.is_file():
        run.reporter.say("an unfinished collection goes on where it was saved last")
    with run.reporter.bar("collect", len(plan.examples)) as advance:
        return stream(
            run.bound,
            cells,
            plan.parts,
            make,
            batch_size=batch_size,
            quantity=quantity,
            folded=plan.folded,
            checkpoint=checkpoint,
            on_batch=advance,
        )


def _response_cap(plan: Plan) -> int:
    """Response positions that count: the shorter arm's median, so that both arms are cut alike."""
    tokenizer = plan.run.loaded.tokenizer
    arms: dict[str, list[int]] = {"harmful": [], "benign": []}
    for example, text in zip(plan.examples, plan.responses, strict=True):
        arms[example.harm].append(len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    return max(1, round(min(statistics.median(sizes) for sizes in arms.values() if sizes)))


def slug(category: str) -> str:
    """A category as part of a set's name: lower case, without spaces."""
    return re.sub(r"[^\w]+", "-", category.lower()).strip("-")

"""What scores need beyond activations: further passes, each kept in a stage of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from precise_shield.core.records import Cell, Example
from precise_shield.core.store import Stage
from precise_shield.data.contrast import fold_of, share_of
from precise_shield.identify.collect import ACTIVATION, Batch, Position, Quantity, Stats
from precise_shield.identify.passes import MAGNITUDE
from precise_shield.identify.scores import EXACT, SCORES
from precise_shield.models.encoding import IGNORED, encode
from precise_shield.workflows.collecting import Plan, collect_stats, collected, response_cap
from precise_shield.workflows.context import Run


def needed(run: Run) -> list[Quantity]:
    """What the chosen score and those beside it read, activations aside.

    Where neurons are switched off one by one, the one-pass stand-in is read too, so that the two
    can be compared.

    Raises:
        ConfigError: no such score.
    """
    section = run.config.identify
    found = {name: SCORES[name].quantity for name in (section.score, *section.also)}
    quantities = {quantity.name: quantity for quantity in found.values()}
    if any(name in EXACT for name in found):
        quantities[MAGNITUDE.name] = MAGNITUDE
    quantities.pop(ACTIVATION.name, None)
    return [quantities[name] for name in sorted(quantities)]


def gather(run: Run) -> list[Stage]:
    """Run every pass that is not there yet: activations first, then what the scores need."""
    stages = [collect_stats(run)]
    for quantity in needed(run):
        examples = run.examples("probe")
        if quantity.name in EXACT:
            examples = spread(examples, run.config.identify.deactivation_examples)
        what = f"collect {quantity.name.replace('_', ' ')} of {len(examples)} probing examples"
        plan = OnePosition(run, examples, quantity)
        stages.append(collected(plan, what, quantity, f"collect-{quantity.name}"))
    return stages


def load_stats(stages: Sequence[Stage]) -> Stats:
    """All quantities of a run in one."""
    first, *others = (Stats.load(stage.path("stats.safetensors")) for stage in stages)
    for other in others:
        first.merge(other)
    return first


def spread(examples: Sequence[Example], most: int | None) -> list[Example]:
    """At most so many examples a cell: the same groups in every cell, over as many folds as can be.

    Examples of one cell and group stay in the order they have.
    """
    if most is None:
        return list(examples)
    groups = sorted({row.group for row in examples}, key=lambda g: (share_of(g, "spread"), g))
    turn: dict[str, tuple[int, int]] = {}
    seen: dict[int, int] = {}
    for group in groups:
        fold = fold_of(group)
        turn[group] = seen.setdefault(fold, 0), fold
        seen[fold] += 1
    taken: dict[Cell, int] = {}
    kept: list[Example] = []
    for row in sorted(examples, key=lambda row: turn[row.group]):
        if taken.setdefault(row.cell, 0) < most:
            taken[row.cell] += 1
            kept.append(row)
    return kept


@dataclass
class OnePosition(Plan):
    """The selecting position alone, for a quantity whose pass costs more than activations do."""

    quantity: Quantity

    @property
    def positions(self) -> list[Position]:
        """The position that selects."""
        return [self.run.config.identify.position]

    def make(self) -> Callable[[list[int]], Batch]:
        """What turns indices into a batch.

        Answers are left out where no position and no gradient asks for them; where a gradient
        does, its answer ends at the cap of `response_mean`, so that both arms are cut alike.
        """
        loaded, cap = self.run.loaded, response_cap(self)
        answered = self.quantity.answers or self.positions == ["response_mean"]

        def batch(index: list[int]) -> Batch:
            rows = [self.examples[i] for i in index]
            said = [row.target or "" for row in rows] if answered else None
            encoded = encode(loaded, rows, said)
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

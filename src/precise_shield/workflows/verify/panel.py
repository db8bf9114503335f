"""A few prompts on which many states of the model are read: refusal, and drift on benign ones."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.errors import EmptyCellError
from precise_shield.core.rates import or_null
from precise_shield.core.records import Cell, Example, Harm
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.store import digest
from precise_shield.core.summary import PanelReading
from precise_shield.data.contrast import by_cell
from precise_shield.identify.select import evaluate
from precise_shield.intervene.edits import Edit, intervening, replace, suppress
from precise_shield.intervene.scopes import Scope
from precise_shield.models.readings.likelihood import State, answers_under, first_token_ids
from precise_shield.models.readings.readout import FirstTokenReadout
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.collecting import collect_stats
from precise_shield.workflows.identify.controls import control, features
from precise_shield.workflows.identify.stage import UNSEEN, Atlas, identify

UNTOUCHED: State = nullcontext
POOL = 120
"""Most prompts among which refused ones are looked for."""


@dataclass(frozen=True)
class Surgery:
    """How this run suppresses, and the random sets that stand beside."""

    run: Run

    @cached_property
    def atlas(self) -> Atlas:
        """The run's sets, identified if they were not."""
        return identify(self.run)

    @cached_property
    def matched(self) -> dict[Site, Float[Tensor, "width k"]]:
        """What random sets have to match a unit in, site by site."""
        return features(self.run)

    @cached_property
    def _means(self) -> dict[Site, Float[Tensor, " width"]]:
        """Mean activation on benign probing examples, each cell counting once."""
        stats = collect_stats(self.run).stats()
        position = self.run.config.identify.position
        benign = [cell for cell in stats.cells if cell.harm == "benign"]
        means = {}
        for site in stats.norms:
            here = [stats.at(site, cell, position) for cell in benign]
            seen = [moments.pooled().mean for moments in here if moments.count.any()]
            means[site] = torch.stack(seen).mean(0)
        return means

    def off(self, neurons: NeuronSet, scope: Scope | None = None) -> State:
        """The state in which `neurons` are suppressed as the configuration says."""
        section = self.run.config.verify
        edit: Edit = suppress
        if section.edit == "benign_mean":
            edit = replace({s: self._means[s][list(ids)] for s, ids in neurons.units.items()})
        return self.edited(neurons, edit, section.scope if scope is None else scope)

    def edited(self, neurons: NeuronSet, edit: Edit, scope: Scope) -> State:
        """The state in which `neurons` are edited."""

        def state() -> AbstractContextManager[object]:
            return intervening(self.run.bound, neurons, edit, scope)

        return state

    def random(self, neurons: NeuronSet, count: int, seed: int) -> list[NeuronSet]:
        """Matched random sets; equal seeds draw equal sets."""
        return [
            control(self.run, self.atlas, neurons, seed + i, self.matched) for i in range(count)
        ]

    def named(self, expression: str) -> NeuronSet:
        """A set by name or expression; `chosen` is the configured one.

        Raises:
            ConfigError: the expression does not parse or names no set.
        """
        return evaluate(expression, {**self.atlas.sets, "chosen": self.atlas.neurons})


@dataclass(frozen=True)
class Panel:
    """Harmful prompts for the log-odds, benign ones with an answer for the drift."""

    run: Run
    harmful: list[Example]
    refused: list[bool]
    """Which of them the untouched model starts to refuse."""
    benign: list[Example]

    @cached_property
    def readout(self) -> FirstTokenReadout:
        """The refusal readout over the harmful prompts, encoded once."""
        return first_token_readout(self.run, self.harmful)

    def read(self, states: Sequence[State]) -> list[PanelReading]:
        """One reading a state; drift is measured from the untouched model."""
        run, answers = self.run, [row.target or "" for row in self.benign]
        size = run.config.verify.batch_size
        seen = answers_under(run.loaded, self.benign, answers, [UNTOUCHED, *states], size)
        readings = []
        for number, state in enumerate(states, 1):
            with state():
                odds = self.readout()
            refused = torch.tensor(self.refused)
            readings.append(
                PanelReading(
                    log_odds=float(odds.mean()),
                    refused=or_null(float(odds[refused].mean())),
                    complied=or_null(float(odds[~refused].mean())),
                    kl=or_null(float(seen.kl[number].mean())),
                    perplexity=or_null(float(seen.perplexity[number])),
                )
            )
        return readings


def panel(run: Run) -> Panel:
    """Prompts of the verified split, spread over its cells, half of them refused if so many are.

    Benign prompts without an answer of their own get the untouched model's.
    """
    section = run.config.verify
    odds = asked(run, "harmful")
    harmful = [row for row in run.examples(section.split) if row.id in odds]
    refused = spread([row for row in harmful if odds[row.id] > 0], section.panel, run.config.seed)
    complied = spread([row for row in harmful if odds[row.id] <= 0], section.panel, run.config.seed)
    half = max(section.panel // 2, section.panel - len(complied))
    rows = [*refused[:half], *complied[: section.panel - len(refused[:half])]]
    benign = [row for row in run.examples(section.split) if row.harm == "benign"]
    benign = spread(benign, section.panel, run.config.seed)
    return Panel(run, rows, [odds[row.id] > 0 for row in rows], answered(run, benign))


def asked(run: Run, harm: Harm) -> dict[str, float]:
    """The untouched model's refusal log-odds on prompts of the verified split, by example.

    At most `POOL` of them, spread over the cells.

    Raises:
        EmptyCellError: there is no such prompt.
    """
    rows = [row for row in run.examples(run.config.verify.split) if row.harm == harm]
    rows = spread(rows, POOL, run.config.seed)
    if not rows:
        raise EmptyCellError(f"split {run.config.verify.split!r} holds no {harm} prompt.")
    stage = run.store.stage("asked", run.made_by(rows, refusals=digest(refusals(run))))
    with run.working(stage, f"first-token refusal of {len(rows)} {harm} prompts") as todo:
        if todo:
            odds = first_token_readout(run, rows)()
            named = {row.id: float(value) for row, value in zip(rows, odds, strict=True)}
            stage.write_json("odds.json", named)
    return dict(stage.read_json("odds.json"))


def answered(run: Run, rows: list[Example]) -> list[Example]:
    """The rows, each with a target: its own, or what the untouched model says."""
    lacking = [row for row in rows if row.target is None]
    if not lacking:
        return rows
    said = run.own_answers(lacking)
    return [
        row if row.target is not None else dataclasses.replace(row, target=said[row.id])
        for row in rows
    ]


def spread(rows: Iterable[Example], limit: int, seed: int) -> list[Example]:
    """At most `limit` rows, taking turns between cells; the order of cells is drawn by `seed`."""
    cells: dict[Cell, list[Example]] = by_cell(rows)
    order = sorted(cells)
    random.Random(seed).shuffle(order)
    deepest = max(map(len, cells.values()), default=0)
    turns = [cells[cell][k] for k in range(deepest) for cell in order if k < len(cells[cell])]
    return turns[:limit]


def refusals(run: Run) -> dict[str, list[str]]:
    """Refusals per language, as the data teach them."""
    texts: dict[str, set[str]] = {}
    for example in run.data.examples:
        if example.harm == "harmful" and example.target:
            texts.setdefault(example.language, set()).add(example.target)
    return {language: sorted(said) for language, said in texts.items()}


def first_token_readout(run: Run, prompts: Sequence[Example]) -> FirstTokenReadout:
    """The log-odds of a refusal at the first token, in each prompt's language."""
    tokens = {lang: first_token_ids(run.loaded, said) for lang, said in refusals(run).items()}
    return FirstTokenReadout(run.loaded, prompts, tokens, run.config.verify.batch_size)


def key(run: Run, *rows: Example, **more: object) -> dict[str, object]:
    """What every part of the causal check is made by."""
    section = run.config.verify
    return run.made_by(
        rows,
        collect=collect_stats(run).key,
        identify=digest(run.config.identify.model_dump(exclude=UNSEEN)),
        refusals=digest(refusals(run)),
        edit=section.edit,
        scope=section.scope,
        **more,
    )

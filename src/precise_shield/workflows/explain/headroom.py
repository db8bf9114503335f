"""Can the model tell a hazard from its harmless twin? Asked before anyone trains, and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.analyse.headroom import (
    FEWEST,
    Probed,
    Setting,
    group_keys,
    mean_row,
    probed,
    sentence,
)
from precise_shield.analyse.probes import Arms
from precise_shield.core.records import Example, Modality, Split
from precise_shield.core.summary.headroom import Headroom, HeadroomRow, ProbeContrast
from precise_shield.models.readings.residual import StreamPosition, residual_stream, stream_bytes
from precise_shield.workflows.align.arms import Arm
from precise_shield.workflows.align.conditions import aligned_state
from precise_shield.workflows.answer.states import State, base_state
from precise_shield.workflows.base.context import Run

Place = tuple[str, Modality]
CONTRASTS: tuple[ProbeContrast, ...] = ("matched", "ordinary")


def headroom(run: Run, arms: Sequence[Arm] = ()) -> Headroom | None:
    """Linear-probe AUC by layer, language and modality; None where it is switched off.

    The untouched model is asked first; each arm of kind `aligned` after it. What the untouched
    model cannot tell apart becomes a warning of the run.
    """
    section = run.config.explain.headroom
    if not section.on:
        return None
    fit, test = (asked_rows(run, split) for split in (section.fit_split, section.split))
    rows: list[HeadroomRow] = []
    told = f"Headroom was not measured: split {section.fit_split!r} or {section.split!r} is empty."
    if fit and test:
        tuned = [aligned_state(arm) for arm in arms if arm.condition.kind == "aligned"]
        for state in (base_state(), *tuned):
            rows += _asked(run, state, fit, test)
        base = [row for row in rows if row.condition == "base"]
        parts = [sentence([r for r in base if r.position == at]) for at in section.positions]
        told = " ".join(words for words, _ in parts)
        if parts[0][1]:
            run.warn(told)
    return Headroom(
        fit_split=section.fit_split,
        split=section.split,
        shrinkage=section.shrinkage,
        draws=section.draws,
        rows=rows,
        sentence=told,
    )


def asked_rows(run: Run, split: Split) -> list[Example]:
    """The first groups of every cell and kind of benign request, in the order of the data."""
    seen: dict[object, set[str]] = {}
    kept = []
    for example in run.data.examples:
        if example.split == split:
            groups = seen.setdefault((example.cell, example.matched), set())
            if example.group in groups or len(groups) < run.config.explain.headroom.per_cell:
                groups.add(example.group)
                kept.append(example)
    return kept


def _asked(run: Run, state: State, fit: list[Example], test: list[Example]) -> list[HeadroomRow]:
    section = run.config.explain.headroom
    switches = section.model_dump(exclude={"on", "batch_size"})
    made_by = run.made_by([*fit, *test], headroom=switches, **state.made_by)
    stage = run.store.stage("headroom", made_by)
    what = f"headroom of {state.name} on {len(fit)} + {len(test)} prompts"
    with run.working(stage, what) as todo:
        if todo:
            places = sorted({(e.language, e.modality) for e in fit + test})
            largest = max(_count(fit + test, place) for place in places)
            size = stream_bytes(run.bound, largest, len(section.positions))
            run.reporter.say(f"a cell's residual stream takes at most {size / 2**20:.0f} MiB")
            with state.enter(run.bound), run.reporter.bar("headroom", len(fit + test)) as advance:
                cells = [_cell(run, state.name, place, fit, test, advance) for place in places]
            rows = _rows([each for cell in cells for each in cell], run, state.name)
            stage.write_json("headroom.json", [row.model_dump(mode="json") for row in rows])
    stored = [HeadroomRow.model_validate(row) for row in stage.read_json("headroom.json")]
    return [row.model_copy(update={"condition": state.name}) for row in stored]


def _count(examples: Sequence[Example], place: Place) -> int:
    return sum((e.language, e.modality) == place for e in examples)


def _rows(cells: list[Probed], run: Run, condition: str) -> list[HeadroomRow]:
    """The mean over cells first, for each position and contrast."""
    rows = []
    for at in run.config.explain.headroom.positions:
        for contrast in CONTRASTS:
            here = [c for c in cells if (c.row.position, c.row.contrast) == (at, contrast)]
            mean = mean_row(here, _setting(run, condition, at))
            rows += [] if mean is None else [mean, *[cell.row for cell in here]]
    return rows


def _setting(run: Run, condition: str, at: StreamPosition) -> Setting:
    section = run.config.explain.headroom
    return Setting(condition, at, section.shrinkage, section.draws, run.config.seed)


def _cell(
    run: Run,
    condition: str,
    place: Place,
    fit: list[Example],
    test: list[Example],
    advance: object,
) -> list[Probed]:
    """One cell's probes; its states are gone before the next cell's are made."""
    section = run.config.explain.headroom
    sides = [[e for e in part if (e.language, e.modality) == place] for part in (fit, test)]
    keys = group_keys([e.group for e in fit], section.draws, run.config.seed)
    streams = residual_stream(
        run.loaded, run.bound, sides[0] + sides[1], section.positions, section.batch_size,
        advance,  # type: ignore[arg-type]
    )  # fmt: skip
    found = []
    for at in section.positions:
        states = streams[at]
        for contrast in CONTRASTS:
            known, on = _fitted(states[: len(sides[0])], sides[0], contrast)
            asked = _arms(states[len(sides[0]) :], sides[1], _of(sides[1], contrast))
            cell = probed(place, contrast, known, asked, on, keys, _setting(run, condition, at))
            found += [] if cell is None else [cell]
    return found


def _of(examples: Sequence[Example], contrast: ProbeContrast) -> list[bool]:
    """Harmful rows, and the benign rows of a contrast."""
    return [e.harm == "harmful" or e.matched == (contrast == "matched") for e in examples]


def _fitted(
    states: Float[Tensor, "rows layers width"], examples: Sequence[Example], contrast: ProbeContrast
) -> tuple[Arms, Literal["the same kind", "all benign"]]:
    """Rows to fit on: the contrast's own kind of benign requests where there are enough."""
    own = _arms(states, examples, _of(examples, contrast))
    if own.count(False) >= FEWEST:
        return own, "the same kind"
    return _arms(states, examples, [True] * len(examples)), "all benign"


def _arms(
    states: Float[Tensor, "rows layers width"], examples: Sequence[Example], keep: list[bool]
) -> Arms:
    rows = [example for example, kept in zip(examples, keep, strict=True) if kept]
    harmful = torch.tensor([e.harm == "harmful" for e in rows], dtype=torch.bool)
    return Arms(states[torch.tensor(keep, dtype=torch.bool)], harmful, [e.group for e in rows])

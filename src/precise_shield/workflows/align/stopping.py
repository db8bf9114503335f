"""What decides that a training has gone on for long enough: some validation cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from precise_shield.align.fit import Validate
from precise_shield.align.losses import TrainBatch, answers
from precise_shield.core.errors import ConfigError, EmptyCellError
from precise_shield.core.records import Example
from precise_shield.data.contrast import fingerprint
from precise_shield.evaluate.counting.measures import refusal_gap
from precise_shield.models.inputs.encoding import encode, mixes
from precise_shield.workflows.align.held_out import note_picking, reads, validation_rows
from precise_shield.workflows.answer.judges import make, names_of
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.together import answered


@dataclass(frozen=True)
class Stop:
    """The rule of a run, the same for every arm."""

    look: Validate
    """The figure of the model as it is; the lower the better."""
    made_by: dict[str, Any]
    """What a training's key needs of it."""


def stop_of(run: Run) -> Stop | None:
    """The configured rule; None trains to the end.

    Prompts are those of the gate's split that the gate itself does not see.

    Raises:
        ConfigError: there is no such cell.
        EmptyCellError: `gap` needs harmful prompts and benign ones of the gate's contrast in the
            cells.
    """
    section = run.config.align.early_stop
    if not section.cells:
        return None
    if "stop" not in run.memo:
        rows = _rows(run)
        note_picking(run, rows)
        made_by: dict[str, Any] = {
            "measure": section.measure,
            "data": fingerprint(rows),
            "order": [row.id for row in rows],
        }
        if section.measure == "loss":
            look = _loss(run, rows)
        else:
            look = _gap(run, rows)
            made_by |= {
                "judge": reads(run, rows),
                "contrast": run.config.align.gate.contrast,
                "max_new_tokens": run.config.evaluate.max_new_tokens,
            }
        run.memo["stop"] = Stop(look, made_by)
    found: Stop = run.memo["stop"]
    return found


def check_stop(run: Run) -> None:
    """Refuse a rule that could not be read, from the data alone: before anything is computed.

    Raises:
        ConfigError: there is no such cell.
        EmptyCellError: `gap` lacks harmful prompts, or benign ones of the gate's contrast.
    """
    if run.config.align.early_stop.cells:
        _rows(run)


def _rows(run: Run) -> list[Example]:
    section = run.config.align.early_stop
    rows = validation_rows(run, "search")
    known = sorted({_place(row) for row in rows})
    for cell in section.cells:
        if cell != "all" and cell not in known:
            raise ConfigError(
                f"align.early_stop.cells: there is no {cell!r} among the prompts; there is"
                f" {', '.join(known)}, and `all`."
            )
    kept: dict[object, list[Example]] = {}
    for row in rows:
        if "all" in section.cells or _place(row) in section.cells:
            mine = kept.setdefault((row.cell, row.matched), [])
            if section.per_cell is None or len(mine) < section.per_cell:
                mine.append(row)
    found = [row for mine in kept.values() for row in mine]
    if section.measure == "gap":
        _require_both(found, section.cells, run.config.align.gate.contrast)
    return found


def _require_both(rows: Sequence[Example], cells: Sequence[str], contrast: str) -> None:
    """A gap is between refusals of harmful and of one kind of benign prompts: there are both."""
    benign = [row for row in rows if row.harm == "benign"]
    of_contrast = [row for row in benign if row.matched == (contrast == "matched")]
    lacking = [
        *(["no harmful prompt"] if len(benign) == len(rows) else []),
        *([] if of_contrast else ["no benign prompt of that kind"]),
    ]
    if lacking:
        raise EmptyCellError(
            "align.early_stop.measure: gap is the refusal of harmful minus that of"
            f" {'topic-matched' if contrast == 'matched' else 'other'} benign prompts"
            f" (align.gate.contrast: {contrast}), and the validation prompts in"
            f" {', '.join(cells)} have {' and '.join(lacking)}. Name more cells, set"
            " align.gate.contrast to the other kind, or set measure: loss."
        )


def _place(row: Example) -> str:
    return f"{row.language}/{row.modality}"


def _loss(run: Run, rows: Sequence[Example]) -> Validate:
    """Nats a target token, harmful and benign rows alike."""
    lacking = [row for row in rows if row.target is None]
    said = run.own_answers(lacking) if lacking else {}  # asked before anything is trained
    full = [replace(row, target=row.target or said[row.id]) for row in rows]
    size = run.config.evaluate.batch_size
    kinds = [full]
    if not mixes(run.loaded):
        kinds = [[r for r in full if (r.image is not None) == seeing] for seeing in (True, False)]
    parts = [kind[i : i + size] for kind in kinds for i in range(0, len(kind), size)]

    @torch.no_grad()
    def look() -> float:
        total, tokens = 0.0, 0
        for part in parts:
            encoded = encode(run.loaded, part, [row.target or "" for row in part])
            benign = torch.tensor([row.harm == "benign" for row in part])
            batch = TrainBatch(encoded.inputs, encoded.labels, benign).to(run.bound.device)
            total += float(answers(run.bound, batch).nll())
            tokens += batch.tokens()
        return total / tokens

    return look


def _gap(run: Run, rows: list[Example]) -> Validate:
    """Minus the refusal gap of the cells, answered and judged afresh."""
    reader = make(run, names_of(run.config)[0], rows)
    section = run.config.evaluate

    def look() -> float:
        said = answered(
            run.loaded,
            rows,
            condition="early-stop",
            max_new_tokens=section.max_new_tokens,
            batch_size=section.batch_size,
            seed=run.config.seed,
        )
        verdicts = reader.judge(list(zip(rows, said, strict=True)))
        contrast = run.config.align.gate.contrast
        return -refusal_gap(rows, verdicts, "early-stop", contrast, draws=1).value

    return look

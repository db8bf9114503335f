"""The causal check: does suppressing these neurons hurt refusal more than other neurons do?"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.controls import imbalance
from precise_shield.core.errors import EmptyCellError
from precise_shield.core.records import Example
from precise_shield.core.summary import Causal, Readout, Verification
from precise_shield.evaluate.counting.statistics import holm
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.controls import MATCHED_ON
from precise_shield.workflows.verify.dose import dose_response, rivals, untouched
from precise_shield.workflows.verify.matrix import matrix
from precise_shield.workflows.verify.panel import Surgery, first_token_readout, key, panel
from precise_shield.workflows.verify.role_items import readables
from precise_shield.workflows.verify.roles import roles

CONTROL_SEED = 10_000
"""Seeds of the read-out's random sets start here, apart from those that are tuned."""

LOOKED_AT = 5
"""Random sets whose match is stated; they differ little in it."""


def verify(run: Run) -> Verification:
    """Refusal log-odds with the neurons suppressed, and the parts that are configured beyond.

    Beside the log-odds stands the same readout under matched random sets; p = (1 + #{random at
    most as high}) / (1 + R), Holm's correction over language x modality.

    Raises:
        EmptyCellError: the split holds no harmful prompt.
    """
    found = _first(run)
    return found.model_copy(update={"imbalance": _imbalance(run), "causal": _causal(run)})


def _imbalance(run: Run) -> dict[str, float]:
    """How well the first few of the random sets match, by what they are matched on."""
    surgery = Surgery(run)
    chosen = surgery.atlas.neurons
    few = surgery.random(chosen, min(LOOKED_AT, run.config.verify.random_sets), CONTROL_SEED)
    if not few:
        return {}
    gaps = imbalance(chosen, few, surgery.matched)
    return {name: round(gap, 3) for name, gap in zip(MATCHED_ON, gaps, strict=True) if gap == gap}


def _first(run: Run) -> Verification:
    surgery, section = Surgery(run), run.config.verify
    prompts = verified_prompts(run)
    made_by = key(run, *prompts, random_sets=section.random_sets, rows="refused too")
    stage = run.store.stage("verify", made_by)
    what = f"verify on {len(prompts)} prompts against {section.random_sets} random sets"
    with run.working(stage, what) as todo:
        if todo:
            chosen = surgery.atlas.neurons
            readout = first_token_readout(run, prompts)
            sets = [chosen, *surgery.random(chosen, section.random_sets, CONTROL_SEED)]
            base, values = readout(), []
            with run.reporter.bar("suppress", len(sets)) as advance:
                for neurons in sets:
                    with surgery.off(neurons)():
                        values.append(readout())
                    advance(1)
            suppressed, random = values[0], torch.stack(values[1:])
            rows = readouts(prompts, base, suppressed, random)
            refused = readout_of_refused(base, suppressed, random)
            said = " ".join([verdict(rows), *([] if refused is None else [of_refused(refused)])])
            found = Verification(readouts=rows, benign_kl={}, verdict=said, refused=refused)
            stage.write_json("verify.json", found.model_dump(mode="json"))
    return Verification.model_validate(stage.read_json("verify.json"))


def _causal(run: Run) -> Causal:
    section = run.config.verify
    found = Causal(edit=section.edit, scope=section.scope)
    if section.panel:
        seen = panel(run)
        found = found.model_copy(
            update={
                "panel": untouched(run, seen),
                "dose": dose_response(run, seen) if section.factors else [],
                "rivals": rivals(run, seen),
            }
        )
    if section.matrix.sets:
        found = found.model_copy(update={"matrix": matrix(run)})
    if section.roles.sets:
        found = found.model_copy(update={"roles": roles(run, readables(run))})
    return found


def verified_prompts(run: Run) -> list[Example]:
    """Harmful prompts of the verified split, at most `verify.per_cell` a cell.

    Raises:
        EmptyCellError: there is none.
    """
    section = run.config.verify
    kept: dict[object, list[Example]] = {}
    for example in run.examples(section.split):
        if example.harm == "harmful":
            cell = kept.setdefault(example.cell, [])
            if section.per_cell is None or len(cell) < section.per_cell:
                cell.append(example)
    prompts = [example for cell in kept.values() for example in cell]
    if not prompts:
        raise EmptyCellError(
            f"split {section.split!r} holds no harmful prompt to verify on; set verify.split."
        )
    return prompts


def readouts(
    prompts: Sequence[Example],
    base: Float[Tensor, " prompts"],
    suppressed: Float[Tensor, " prompts"],
    random: Float[Tensor, "sets prompts"],
) -> list[Readout]:
    """One row a language and modality, and a pooled one first."""
    places = sorted({(example.language, example.modality) for example in prompts})
    rows = [_row(None, [True] * len(prompts), base, suppressed, random)]
    for place in places:
        here = [(example.language, example.modality) == place for example in prompts]
        rows.append(_row(place, here, base, suppressed, random))
    corrected = holm([nan if row.p_value is None else row.p_value for row in rows[1:]])
    return [rows[0]] + [
        row.model_copy(update={"p_holm": p}) for row, p in zip(rows[1:], corrected, strict=True)
    ]


def readout_of_refused(
    base: Float[Tensor, " prompts"],
    suppressed: Float[Tensor, " prompts"],
    random: Float[Tensor, "sets prompts"],
) -> Readout | None:
    """The pooled row over the prompts with refusal log-odds above 0 before; None without any."""
    refused = base > 0
    return _row(None, refused.tolist(), base, suppressed, random) if refused.any() else None


def _row(
    place: tuple[str, str] | None,
    here: list[bool],
    base: Tensor,
    suppressed: Tensor,
    random: Tensor,
) -> Readout:
    mask = torch.tensor(here)
    value = float(suppressed[mask].mean())
    controls = random[:, mask].mean(1)
    return Readout(
        language=place[0] if place else None,
        modality=place[1] if place else None,  # type: ignore[arg-type]
        n=int(mask.sum()),
        base=float(base[mask].mean()),
        suppressed=value,
        random=[round(float(each), 4) for each in controls],
        p_value=(1 + int((controls <= value).sum())) / (1 + len(controls)),
        p_holm=None,
    )


def verdict(rows: Sequence[Readout]) -> str:
    """One sentence, as careful as the numbers."""
    pooled, cells = rows[0], rows[1:]
    drop, control = drops(pooled)
    hurt = sum(1 for row in cells if row.p_holm is not None and row.p_holm <= 0.05)
    numbers = (
        f"suppression moves the refusal log-odds by {-drop:+.2f} nats, matched random sets by"
        f" {-control:+.2f} on average (p = {pooled.p_value:.3g}); {hurt} of {len(cells)} cells"
        " stay below 0.05 after Holm's correction"
    )
    if pooled.p_value is not None and pooled.p_value <= 0.05 and drop > control:
        return f"The neurons carry refusal beyond chance: {numbers}."
    return f"No effect beyond the random control: {numbers}."


def of_refused(row: Readout) -> str:
    """What the readout is where there is a refusal to take away."""
    drop, control = drops(row)
    return (
        f"On the {row.n} prompts that the untouched model begins to refuse: {-drop:+.2f} nats,"
        f" random sets {-control:+.2f} (p = {row.p_value:.3g})."
    )


def drops(row: Readout) -> tuple[float, float]:
    """How far the log-odds fall under the set, and under its random sets on average, in nats."""
    return row.base - row.suppressed, row.base - sum(row.random) / len(row.random)

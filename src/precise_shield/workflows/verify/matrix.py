"""Set by cell: does suppressing one language's neurons hurt another?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.records import Example
from precise_shield.core.sites import NeuronSet
from precise_shield.core.summary import MatrixCell
from precise_shield.data.contrast import by_cell
from precise_shield.evaluate.counting.statistics import holm
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.stage import Atlas
from precise_shield.workflows.verify.panel import Surgery, first_token_readout, key

MATRIX_SEED = 40_000
"""Seeds of the matrix's random sets start here."""


def matrix(run: Run) -> list[MatrixCell]:
    """Refusal log-odds of every language and modality with each configured set suppressed.

    p = (1 + #{random sets at most as high}) / (1 + R), Holm's correction over all cells.

    Raises:
        ConfigError: a set expression does not parse.
    """
    section, surgery = run.config.verify.matrix, Surgery(run)
    prompts = matrix_prompts(run)
    made_by = key(run, *prompts, matrix=section.model_dump())
    stage = run.store.stage("matrix", made_by)
    with run.working(stage, f"set by cell on {len(prompts)} prompts") as todo:
        if todo:
            sets = expanded(section.sets, surgery)
            readout = first_token_readout(run, prompts)
            base, rows = readout(), []
            work = len(sets) * (1 + section.random_sets)
            with run.reporter.bar("set by cell", work) as advance:
                for name, neurons in sets.items():
                    values = []
                    drawn = surgery.random(neurons, section.random_sets, MATRIX_SEED)
                    for one in [neurons, *drawn]:
                        with surgery.off(one)():
                            values.append(readout())
                        advance(1)
                    rows += cells(name, len(neurons), prompts, base, torch.stack(values))
            stage.write_json(
                "matrix.json", [row.model_dump(mode="json") for row in corrected(rows)]
            )
    return [MatrixCell.model_validate(row) for row in stage.read_json("matrix.json")]


def expanded(names: list[str], surgery: Surgery) -> dict[str, NeuronSet]:
    """The named sets; `languages` and `cells` stand for many. Empty ones are left out aloud."""
    atlas, run = surgery.atlas, surgery.run
    wanted: dict[str, None] = {}
    for name in names:
        wanted |= dict.fromkeys(_many(name, atlas))
    found = {name: surgery.named(name) for name in wanted}
    empty = [name for name, one in found.items() if not one]
    if empty:
        run.warn(f"sets without a neuron are not in the matrix: {', '.join(empty)}")
    return {name: one for name, one in found.items() if one}


def _many(name: str, atlas: Atlas) -> list[str]:
    if name == "cells":
        return [f"{language}/{modality}" for language, modality in atlas.places]
    if name != "languages":
        return [name]
    shared = [each for each in sorted(atlas.sets) if each.startswith("SS:")]
    rest = [f"MS:{each.removeprefix('SS:')} - {each}" for each in shared]
    return [*(each for each in sorted(atlas.sets) if each.startswith("MS:")), *shared, *rest]


def matrix_prompts(run: Run) -> list[Example]:
    """Harmful prompts of the verified split, a few of every cell."""
    rows = [row for row in run.examples(run.config.verify.split) if row.harm == "harmful"]
    return [
        row for cell in by_cell(rows).values() for row in cell[: run.config.verify.matrix.per_cell]
    ]


def cells(
    name: str,
    size: int,
    prompts: list[Example],
    base: Float[Tensor, " prompts"],
    values: Float[Tensor, "sets prompts"],
) -> list[MatrixCell]:
    """One set's row: its own values first in `values`, then those of its random sets."""
    rows = []
    for language, modality in sorted({(row.language, row.modality) for row in prompts}):
        here = torch.tensor([(r.language, r.modality) == (language, modality) for r in prompts])
        means = values[:, here].mean(1)
        as_low = int((means[1:] <= means[0]).sum())
        rows.append(
            MatrixCell(
                of=name,
                neurons=size,
                language=language,
                modality=modality,
                n=int(here.sum()),
                base=float(base[here].mean()),
                suppressed=float(means[0]),
                random=[round(float(each), 4) for each in means[1:]],
                p_value=(1 + as_low) / len(means),
            )
        )
    return rows


def corrected(rows: list[MatrixCell]) -> list[MatrixCell]:
    """The cells with Holm's correction over all of them."""
    adjusted = holm([row.p_value for row in rows])
    return [row.model_copy(update={"p_holm": p}) for row, p in zip(rows, adjusted, strict=True)]

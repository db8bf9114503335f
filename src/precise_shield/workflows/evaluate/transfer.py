"""The transfer matrix: trained on one part of the data, asked in every other."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.summary import Condition, Transfer
from precise_shield.evaluate.counting.transfer import transfer_cells
from precise_shield.workflows.evaluate.stage import Evaluation


def transfer(found: Evaluation) -> Transfer | None:
    """The matrix of every arm that says what it was trained on; None without any."""
    arms = [each for each in found.conditions if each.trained_on]
    if not arms:
        return None
    aligned = [each for each in found.conditions if each.kind == "aligned"]
    controls = {each.name: controls_of(each, found.conditions) for each in [*aligned, *arms]}
    cells = transfer_cells(
        [*aligned, *arms], controls, found.examples, found.every_verdict(), found.rule
    )
    return Transfer(cells=cells)


def controls_of(arm: Condition, conditions: Sequence[Condition]) -> list[str]:
    """The random rows that were trained as an arm was."""
    if arm.kind == "aligned":
        return [each.name for each in conditions if each.kind == "random_rows"]
    return [each.name for each in conditions if each.name.startswith(f"{arm.name}-random-")]

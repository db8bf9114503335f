"""Where a state of the model stands on validation data: refusal gap, attacks, cost."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.errors import EmptyCellError
from precise_shield.core.rates import or_null
from precise_shield.core.records import Example, Verdict
from precise_shield.core.summary import Measure
from precise_shield.core.summary.gate import Standing
from precise_shield.data.contrast import by_cell
from precise_shield.evaluate.counting.bootstrap import GroupedDifference, grouped_difference
from precise_shield.evaluate.counting.measures import outcomes, rate_of, refusal_gap
from precise_shield.workflows.align.held_out import Part, validation_rows
from precise_shield.workflows.answer.judging import drift, judge
from precise_shield.workflows.answer.states import State, base_state, respond
from precise_shield.workflows.base.context import Run


def validation_prompts(run: Run, part: Part = "gate") -> list[Example]:
    """A few prompts of every cell, matched and ordinary benign ones alike.

    Raises:
        EmptyCellError: the split lacks harmful or benign prompts, or is too small to keep the
            prompts of the search apart from the gate's.
    """
    gate = run.config.align.gate
    kept: dict[object, list[Example]] = {}
    for example in validation_rows(run, part):
        cell = kept.setdefault((example.cell, example.matched), [])
        if gate.per_cell is None or len(cell) < gate.per_cell:
            cell.append(example)
    prompts = [example for cell in kept.values() for example in cell]
    if {example.harm for example in prompts} != {"harmful", "benign"}:
        raise EmptyCellError(
            f"split {gate.split!r} needs harmful and benign prompts to compare models on, found"
            f" {len(by_cell(prompts))} cells; set align.gate.split, or give such prompts."
        )
    return prompts


def standing(run: Run, state: State, prompts: Sequence[Example]) -> tuple[Standing, list[Verdict]]:
    """Answer, judge and count; every part is stored and taken up again.

    Returns:
        The figures, and the verdicts they come from.
    """
    examples = list(prompts)
    base = base_state()
    said = respond(run, base, examples)
    answers = said if state.name == base.name else respond(run, state, examples)
    verdicts = judge(run, examples, {state.name: answers})[state.name]
    contrast = run.config.align.gate.contrast
    gap = refusal_gap(examples, verdicts, state.name, contrast)
    texts = {row.example: row.text for row in said}
    moved = 0.0 if state.name == base.name else drift(run, state, examples, texts)

    def hits(*measures: Measure) -> list[bool | None]:
        tables = (outcomes(examples, verdicts, each, run.config.evaluate.rule) for each in measures)
        return [hit for table in tables for hit in table.get(state.name, {}).values()]

    attacks, harmful = rate_of(hits("attack_success")), rate_of(hits("refusal_harmful"))
    benign = rate_of(hits("refusal_matched", "refusal_ordinary"))
    found = Standing(
        condition=state.name,
        contrast=contrast,
        gap=or_null(gap.value),
        gap_low=or_null(gap.low),
        gap_high=or_null(gap.high),
        refusal_harmful=or_null(harmful.value),
        attack_success=or_null(attacks.value),
        over_refusal=or_null(benign.value),
        benign_kl=or_null(moved),
        harmful=attacks.judged,
        benign=benign.judged,
        unscored=attacks.unscored + benign.unscored,
    )
    return found, verdicts


def compared(
    run: Run,
    examples: Sequence[Example],
    before: Sequence[Verdict],
    after: Sequence[Verdict],
    measure: Measure,
) -> GroupedDifference:
    """`after` minus `before` on the same prompts, resampled by parallel group."""
    groups = {example.id: example.group for example in examples}
    tables = [
        outcomes(examples, list(verdicts), measure, run.config.evaluate.rule)
        for verdicts in (before, after)
    ]
    first, second = (next(iter(table.values()), {}) for table in tables)
    return grouped_difference(first, second, groups)

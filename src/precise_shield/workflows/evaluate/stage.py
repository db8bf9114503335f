"""Answer and judge the test prompts in every condition, and measure the drift on benign ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from precise_shield.core.parallel import crew
from precise_shield.core.rates import Paired, figures
from precise_shield.core.records import Example, Label, Response, Verdict
from precise_shield.core.summary import (
    Condition,
    ConditionKind,
    DifferenceRow,
    GapRow,
    Headlines,
    Judging,
    Measure,
    RateRow,
    Sample,
    Utility,
)
from precise_shield.data.contrast import by_cell
from precise_shield.evaluate.counting.bootstrap import GroupedDifference, grouped_difference
from precise_shield.evaluate.counting.measures import (
    difference_rows,
    outcomes,
    rate_rows,
    refusal_gap,
)
from precise_shield.workflows.align.adopting import adopt
from precise_shield.workflows.align.assembled import assembled
from precise_shield.workflows.align.conditions import aligned_state, suppressed_states
from precise_shield.workflows.align.damping import damping_states
from precise_shield.workflows.align.parts import parts_of
from precise_shield.workflows.align.plans import arm_names
from precise_shield.workflows.align.stage import align
from precise_shield.workflows.answer import answers, judges
from precise_shield.workflows.answer.judging import drift
from precise_shield.workflows.answer.states import State, base_state, respond
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.openings import log_opening
from precise_shield.workflows.evaluate.defended import check_defences, defended
from precise_shield.workflows.evaluate.headlines import headlines
from precise_shield.workflows.evaluate.served import check_servers, served
from precise_shield.workflows.evaluate.utility import utility
from precise_shield.workflows.identify.stage import identify


@dataclass(frozen=True)
class Evaluation:
    """What every condition answered, how it was judged, and what follows."""

    examples: list[Example]
    conditions: list[Condition]
    responses: dict[str, list[Response]]
    verdicts: dict[str, list[Verdict]]
    rates: list[RateRow]
    differences: list[DifferenceRow]
    benign_kl: dict[str, float]
    rule: str
    judging: Judging
    headlines: Headlines
    utility: Utility

    def compared(
        self,
        measure: Measure,
        condition: str,
        reference: str,
        keep: Sequence[Example] | None = None,
    ) -> GroupedDifference:
        """`condition` minus `reference` on the same prompts, resampled by parallel group.

        Where no draw differs (no answer changed, say), it is the interval of independent prompts:
        a resampled one would have no width, however few the prompts are.
        """
        examples = self.examples if keep is None else list(keep)
        table = outcomes(self.examples, self.every_verdict(), measure, self.rule)
        groups = {example.id: example.group for example in examples}
        before, after = (
            {key: hit for key, hit in table[name].items() if key in groups}
            for name in (reference, condition)
        )
        found = grouped_difference(before, after, groups)
        if found.low != found.high:
            return found
        low, high = Paired.of(before, after).interval()
        return replace(found, low=low, high=high)

    def every_verdict(self) -> list[Verdict]:
        """The verdicts of all conditions, one after the other."""
        return [verdict for rows in self.verdicts.values() for verdict in rows]

    def gaps(self) -> list[GapRow]:
        """The primary endpoint in every condition, against both kinds of benign requests."""
        rows = []
        for condition in self.conditions:
            for contrast in ("matched", "ordinary"):
                gap = refusal_gap(
                    self.examples, self.verdicts[condition.name], condition.name, contrast
                )
                rows.append(
                    GapRow(
                        condition=condition.name,
                        contrast=contrast,
                        **figures(gap),
                    )
                )
        return rows

    def labels(self) -> dict[str, dict[str, int]]:
        """Per condition, how the responses to harmful prompts were read."""
        harmful = {example.id for example in self.examples if example.harm == "harmful"}
        counts: dict[str, dict[str, int]] = {}
        for condition, verdicts in self.verdicts.items():
            here = counts.setdefault(condition, {})
            for verdict in verdicts:
                if verdict.example in harmful:
                    here[verdict.label] = here.get(verdict.label, 0) + 1
        return counts


def evaluate(run: Run) -> Evaluation:
    """Generate, judge and count in the order base, aligned, controls, suppressed.

    Raises:
        EmptyCellError: the test split is empty.
    """
    check_defences(run.config)
    check_servers(run.config, arm_names(run.config.align, parts_of(run)))
    adopt(run)
    atlas, arms = identify(run), align(run)
    examples = run.examples(run.config.evaluate.split)
    with crew().leader_first():
        log_opening(run, examples)
    states = [base_state(), *map(aligned_state, arms), *suppressed_states(run, atlas)]
    scoped = damping_states(run, atlas)  # a first token alone has no answer to edit
    responses = {state.name: respond(run, state, examples) for state in [*states, *scoped]}
    joined, joined_responses = assembled(
        run, [arm.condition.name for arm in arms], examples, responses
    )
    behind, defended_responses = defended(run, examples)
    elsewhere, served_responses = served(run, examples)
    responses |= joined_responses | defended_responses | served_responses
    conditions = [*(state.condition for state in [*states, *scoped]), *joined, *behind, *elsewhere]
    return evaluated(run, conditions, states, examples, responses)


def evaluated(
    run: Run,
    conditions: list[Condition],
    states: Sequence[State],
    examples: list[Example],
    responses: dict[str, list[Response]],
) -> Evaluation:
    """Keep, judge and count what the conditions answered; the first of them is the base.

    Args:
        run: whose judges, rule and store are used.
        conditions: all of them, in the order of the report.
        states: those that are states of a loaded model, the base first, to be measured without
            answers too; none where no weights are loaded.
        examples: the prompts.
        responses: the answers of every condition, by its name.
    """
    kept = answers.keep(run, examples, conditions, responses)
    judged = judges.judge_all(run, examples, responses, kept.key)
    verdicts = judged[0].verdicts
    rule = run.config.evaluate.rule
    names = [condition.name for condition in conditions]
    every = [verdict for name in names for verdict in verdicts[name]]
    differences = [
        row
        for after, before in comparisons(conditions)
        for row in difference_rows(before, after, examples, every, rule)
    ]
    said = {row.example: row.text for row in responses[names[0]]}
    drifts = {state.name: drift(run, state, examples, said) for state in states[1:]}
    return Evaluation(
        examples,
        conditions,
        responses,
        verdicts,
        rate_rows(examples, every, rule),
        differences,
        drifts,
        rule,
        judges.facts(examples, judged, rule, judged[0].name),
        headlines(run, conditions, states, examples, responses, every),
        utility(run, conditions, states, examples, responses),
    )


def comparisons(conditions: Sequence[Condition]) -> list[tuple[str, str]]:
    """Which condition is compared with which: each with the base, each effect with its control."""
    kinds = {kind: [c.name for c in conditions if c.kind == kind] for kind in KINDS}
    pairs = [(condition.name, "base") for condition in conditions[1:]]
    for kind, controls in BESIDE.items():
        for name in kinds[kind]:
            pairs += [(name, other) for control in controls for other in kinds[control]]
    for kind in ("zero_shot", "assembled"):
        for name in kinds[kind]:
            others = kinds[f"{kind}_random"]
            pairs += [(name, each) for each in others if each.startswith(f"{name}-random-")]
    pairs += [(name, arm) for name in kinds["assembled"] for arm in kinds["aligned"]]
    return pairs


BESIDE = {
    "aligned": ("random_rows", "benign_rows", "frozen_a", "lora", "full", "defence", "served"),
    "amplified": ("random_amplified",),
    "damped": ("random_damped",),
    "suppressed": ("random_suppressed",),
}
"""Which kinds of condition an effect is set against."""

KINDS = get_args(ConditionKind)


def samples(run: Run, found: Evaluation) -> list[Sample]:
    """A few prompts of every language and modality in turn, with what each condition said."""
    wanted, chosen = run.config.evaluate.samples, []
    cells = list(by_cell(found.examples).values())
    for place in range(max(map(len, cells), default=0)):
        chosen += [cell[place] for cell in cells[place::3] if place < len(cell)]
        if len(chosen) >= wanted:
            break
    texts = {name: {r.example: r.text for r in said} for name, said in found.responses.items()}
    labels: dict[str, dict[str, Label]] = {
        name: {v.example: v.label for v in rows} for name, rows in found.verdicts.items()
    }
    return [
        Sample(
            example=example.id,
            language=example.language,
            modality=example.modality,
            harm=example.harm,
            prompt=example.prompt,
            responses={name: said[example.id] for name, said in texts.items()},
            labels={name: read[example.id] for name, read in labels.items()},
        )
        for example in chosen[:wanted]
    ]

"""How much a run will generate, before anything is."""

from __future__ import annotations

from dataclasses import dataclass

from precise_shield.core.errors import EmptyCellError
from precise_shield.core.records import Example
from precise_shield.workflows.align.parts import parts_of
from precise_shield.workflows.align.plans import arm_names
from precise_shield.workflows.align.space import searched_arms, trials_of
from precise_shield.workflows.align.validation import validation_prompts
from precise_shield.workflows.answer.asked import calls_beforehand
from precise_shield.workflows.answer.judges import names_of
from precise_shield.workflows.base.context import Run


def budget(run: Run) -> str:
    """The answers of the test, the gate and the search, and what judging models are asked.

    Raises:
        EmptyCellError: a search or early stop is configured and validation is too small for it.
    """
    section = run.config
    test = run.examples(section.evaluate.split)
    conditions = 1 + len(arm_names(section.align, parts_of(run))) + 1
    conditions += section.evaluate.random_suppressions
    if section.align.damp.on:
        conditions += len(section.align.damp.scopes) * (1 + section.align.damp.random_seeds)
    conditions += len(section.evaluate.defences) + len(section.evaluate.servers)
    parts = [Asked(f"{conditions} conditions x {len(test)} test prompts", test, conditions)]
    parts += _search(run) + _gate(run)
    words = [f"{part.what} = {len(part.rows) * part.times}" for part in parts]
    every = [row for part in parts for row in part.rows * part.times]
    if len(parts) > 1:
        words.append(f"{len(every)} in all")
    text = f"budget: {', '.join(words)} answers of at most {section.evaluate.max_new_tokens} tokens"
    stop = section.align.early_stop
    if stop.cells and stop.measure == "gap":
        text += "; early stop answers and judges its prompts at every look besides"
    first, *others = names_of(section)  # only the first reads what the search and the gate ask
    asked = [
        calls_beforehand(section, [first], every, 1),
        calls_beforehand(section, others, test, conditions),
    ]
    return "; ".join([text, *filter(None, asked)])


@dataclass(frozen=True)
class Asked:
    """Prompts that are answered several times over."""

    what: str
    rows: list[Example]
    times: int


def _search(run: Run) -> list[Asked]:
    align = run.config.align
    trials = sum(trials_of(align, arm) for arm in searched_arms(align)) if align.search.on else 0
    if not trials:
        return []
    rows = validation_prompts(run, "search")
    return [Asked(f"search: (1 + {trials} trials) x {len(rows)} prompts", rows, 1 + trials)]


def _gate(run: Run) -> list[Asked]:
    if not run.config.align.gate.measure:
        return []
    try:
        rows = validation_prompts(run)
    except EmptyCellError:  # the gate says so itself, and a run without a search goes on
        if run.config.align.search.on:
            raise
        return []
    return [Asked(f"gate: 2 x {len(rows)} prompts", rows, 2)]

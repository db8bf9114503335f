"""Answers put together from several trainings: each prompt where it was, or never was, seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from precise_shield.core.records import Example, Response
from precise_shield.core.summary import Condition, TransferAxis
from precise_shield.evaluate.counting.transfer import VALUE_OF
from precise_shield.workflows.align.parts import without
from precise_shield.workflows.base.context import Run

Chosen = Callable[[Example], str | None]
"""Name of the training that answers a prompt; None where there is none."""


def assembled(
    run: Run,
    names: Collection[str],
    examples: Sequence[Example],
    responses: Mapping[str, Sequence[Response]],
) -> tuple[list[Condition], dict[str, list[Response]]]:
    """Conditions whose every answer is that of one of several trainings; nothing is generated.

    `left-out-language` and `left-out-category` (`align.leave_out`): each prompt as answered by the
    training that left its language or category out. `own-language` and `own-modality`
    (`align.transfer`): as answered by the training on its own alone, one adapter each. Random rows
    trained alike are put together the same way. A condition is left out, with a warning, where a
    prompt has no such training. `names` are those of the trainings that were made.
    """
    conditions: list[Condition] = []
    answers: dict[str, list[Response]] = {}
    for name, label, note, chosen in _wanted(run, examples):
        for seed in (None, *range(run.config.align.zero_shot_seeds)):
            tail = "" if seed is None else f"-random-{seed}"
            which = {example.id: chosen(example) for example in examples}
            lacking = [key for key, arm in which.items() if arm is None or arm + tail not in names]
            if lacking:
                run.warn(f"{name}: {len(lacking)} test prompts have no such training; left out")
                break
            said = {n: {row.example: row for row in responses[n]} for n in responses}
            condition = Condition(
                name=name + tail,
                kind="assembled" if seed is None else "assembled_random",
                label=label if seed is None else f"random rows, {label}",
                note=note,
            )
            conditions.append(condition)
            answers[condition.name] = [
                replace(said[f"{which[e.id]}{tail}"][e.id], condition=condition.name)
                for e in examples
            ]
    return conditions, answers


def _wanted(run: Run, examples: Sequence[Example]) -> list[tuple[str, str, str, Chosen]]:
    found: list[tuple[str, str, str, Chosen]] = []
    for axis in run.config.align.leave_out:
        note = f"each prompt answered by the training that never saw its {axis}"
        if axis == "category":
            note += "; benign prompts, which have none, by one of them drawn by group"
        label = f"{axis} left out of training"
        found.append((f"left-out-{axis}", label, note, _leaving(axis, examples)))
    for section in run.config.align.transfer:
        by: TransferAxis = section.by
        found.append(
            (
                f"own-{by}",
                f"one training a {by}",
                f"each prompt answered by the training on its own {by} alone",
                lambda e, by=by: f"from-{str(VALUE_OF[by](e)).replace('_', '-')}",  # type: ignore[misc]
            )
        )
    return found


def _leaving(axis: TransferAxis, examples: Sequence[Example]) -> Chosen:
    values = (VALUE_OF[axis](e) for e in examples if e.harm == "harmful")
    there = sorted({value for value in values if value is not None})

    def chosen(example: Example) -> str | None:
        value = VALUE_OF[axis](example)
        if value is None and example.harm == "benign" and there:
            drawn = hashlib.sha256(example.group.encode()).digest()
            value = there[int.from_bytes(drawn[:4]) % len(there)]
        return None if value is None else without(value)

    return chosen

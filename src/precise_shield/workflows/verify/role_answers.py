"""Judged refusal with a set off at the prompt: the cheap readout, checked by answers."""

from __future__ import annotations

from precise_shield.core.rates import or_null
from precise_shield.core.records import Example, Response
from precise_shield.core.sites import NeuronSet
from precise_shield.core.store import digest
from precise_shield.core.summary import Judged
from precise_shield.evaluate.counting.measures import outcome, rate_of
from precise_shield.models.answers.generation import generate
from precise_shield.models.readings.likelihood import State
from precise_shield.workflows.answer.judging import judge
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.verify.panel import UNTOUCHED, Surgery, asked, key, spread

ANSWER_SEED = 60_000
"""Seeds of these random sets start here."""


def judged_refusal(run: Run, surgery: Surgery, name: str, neurons: NeuronSet) -> Judged | None:
    """Refusal among scored answers to harmful prompts: untouched, set off, random sets off.

    Prompts that the untouched model starts to refuse come first. None where
    `verify.roles.generated` is 0.
    """
    count = run.config.verify.roles.generated
    if not count:
        return None
    odds = asked(run, "harmful")
    rows = [row for row in run.examples(run.config.verify.split) if row.id in odds]
    rows = [
        *spread([row for row in rows if odds[row.id] > 0], count, run.config.seed),
        *spread([row for row in rows if odds[row.id] <= 0], count, run.config.seed),
    ][:count]
    drawn = surgery.random(neurons, max(1, run.config.evaluate.random_suppressions), ANSWER_SEED)
    states = {"base": UNTOUCHED, "off": surgery.off(neurons, "prompt")}
    states |= {f"random-{n}": surgery.off(one, "prompt") for n, one in enumerate(drawn)}
    limit = run.config.evaluate.max_new_tokens
    made_by = key(
        run, *rows, neurons=digest(neurons.to_json()), random_sets=len(drawn), max_new_tokens=limit
    )
    stage = run.store.stage("role-answers", made_by)
    with run.working(stage, f"answer {len(rows)} prompts with {name} off at the prompt") as todo:
        if todo:
            said = [
                response
                for condition, state in states.items()
                for response in _answers(run, rows, condition, state)
            ]
            stage.write_table("responses.jsonl", said)
    by_state: dict[str, list[Response]] = {condition: [] for condition in states}
    for response in stage.read_table("responses.jsonl", Response):
        by_state[response.condition].append(response)
    verdicts = judge(run, rows, by_state)
    rates = {
        condition: rate_of(outcome("refusal_harmful", verdict) for verdict in read)
        for condition, read in verdicts.items()
    }
    return Judged(
        n=rates["off"].judged,
        unscored=rates["off"].unscored,
        base=or_null(rates["base"].value),
        suppressed=or_null(rates["off"].value),
        random=[or_null(rates[f"random-{n}"].value) for n in range(len(drawn))],
    )


def _answers(run: Run, rows: list[Example], condition: str, state: State) -> list[Response]:
    section = run.config.evaluate
    with state():
        return generate(
            run.loaded,
            rows,
            condition=condition,
            max_new_tokens=section.max_new_tokens,
            batch_size=section.batch_size,
            seed=run.config.seed,
        )

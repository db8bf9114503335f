"""A whole evaluation through servers alone: no weights, and nothing that needs them."""

from __future__ import annotations

from dataclasses import replace

from precise_shield.core.errors import ConfigError
from precise_shield.core.parallel import crew
from precise_shield.core.summary import ModelFacts, NeuronFacts, Summary
from precise_shield.report.pages.page import write_report
from precise_shield.workflows.answer import judges
from precise_shield.workflows.answer.asked import calls_beforehand
from precise_shield.workflows.base.config import commented
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.openings import log_opening
from precise_shield.workflows.evaluate.served import BASE, check_servers, served
from precise_shield.workflows.evaluate.stage import Evaluation, evaluated
from precise_shield.workflows.summarise import evaluation_summary

NOT_KNOWN = "not known: served"


def served_run(run: Run) -> Summary:
    """Answer, judge, count and report through servers alone; no weights are loaded.

    All servers are compared with the first. What needs weights is null.

    Raises:
        ConfigError: no server is configured, or a judge does not exist.
        EmptyCellError: the test split is empty.
    """
    section = run.config.evaluate
    if not section.servers:
        raise ConfigError("evaluate.servers is empty; name at least one: {name, url, model}.")
    check_servers(run.config)
    judges.names_of(run.config)
    run.write_text("config.yaml", commented(run.config))
    examples = run.examples(section.split)
    log_opening(run, examples)
    times = len(section.servers)
    judging = calls_beforehand(run.config, judges.names_of(run.config), examples, times)
    run.reporter.say(
        f"budget: {times * len(examples)} answers of at most {section.max_new_tokens} tokens"
        f" through {times} servers" + (f"; {judging}" if judging else "")
    )
    conditions, said = served(run, examples)
    first = conditions[0].name
    conditions[0] = conditions[0].model_copy(update={"name": BASE, "kind": "base"})
    responses = {BASE: [replace(row, condition=BASE) for row in said.pop(first)], **said}
    summary = _summary(run, evaluated(run, conditions, [], examples, responses))
    run.write_text("summary.json", summary.model_dump_json(indent=1) + "\n")
    if crew().leads:
        write_report(summary, run.folder)
    return summary


def _summary(run: Run, found: Evaluation) -> Summary:
    first = run.config.evaluate.servers[0]
    model = ModelFacts(
        path=first.model,
        revision=first.revision,
        model_type="served",
        fingerprint=NOT_KNOWN,
        parameters=None,
        layers=0,
        neurons=0,
        dtype=NOT_KNOWN,
        device=NOT_KNOWN,
    )
    neurons = NeuronFacts(
        score="none", position="none", p=0, chosen="none", sets=[], overlaps=[], curve=[]
    )
    return evaluation_summary(run, found, model, neurons, ("numpy",))

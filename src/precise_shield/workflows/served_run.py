"""A whole evaluation through servers alone: no weights, and nothing that needs them."""

from __future__ import annotations

import datetime as dt
import platform
from dataclasses import replace
from importlib.metadata import version

from precise_shield import __version__
from precise_shield.core.errors import ConfigError
from precise_shield.core.parallel import crew
from precise_shield.core.records import Example, Response
from precise_shield.core.summary import Condition, ModelFacts, NeuronFacts, Summary
from precise_shield.evaluate.measures import difference_rows, rate_rows
from precise_shield.evaluate.rules import RULES
from precise_shield.report.pages.page import write_report
from precise_shield.workflows.answer import answers, judges
from precise_shield.workflows.answer.asked import calls_beforehand
from precise_shield.workflows.base.config import commented
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.data_notes import data_notes
from precise_shield.workflows.base.openings import log_opening
from precise_shield.workflows.evaluate.headlines import headlines
from precise_shield.workflows.evaluate.served import BASE, check_servers, served
from precise_shield.workflows.evaluate.stage import Evaluation, samples
from precise_shield.workflows.evaluate.utility import utility
from precise_shield.workflows.summarise import data_facts

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
    summary = _summary(run, _evaluated(run, examples, conditions, responses))
    run.write_text("summary.json", summary.model_dump_json(indent=1) + "\n")
    if crew().leads:
        write_report(summary, run.folder)
    return summary


def _evaluated(
    run: Run,
    examples: list[Example],
    conditions: list[Condition],
    responses: dict[str, list[Response]],
) -> Evaluation:
    rule = run.config.evaluate.rule
    kept = answers.keep(run, examples, conditions, responses)
    judged = judges.judge_all(run, examples, responses, kept.key)
    verdicts = judged[0].verdicts
    every = [verdict for condition in conditions for verdict in verdicts[condition.name]]
    return Evaluation(
        examples,
        conditions,
        responses,
        verdicts,
        rate_rows(examples, every, rule),
        [
            row
            for condition in conditions[1:]
            for row in difference_rows(BASE, condition.name, examples, every, rule)
        ],
        {},
        rule,
        judges.facts(examples, judged, rule, judged[0].name),
        headlines(run, conditions, [], examples, responses, every),
        utility(run, conditions, [], examples, responses),
    )


def _summary(run: Run, found: Evaluation) -> Summary:
    config, first = run.config, run.config.evaluate.servers[0]
    return Summary(
        name=config.name,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        judge=found.judging.primary,
        rule=RULES[found.rule].meaning,
        model=ModelFacts(
            path=first.model,
            revision=first.revision,
            model_type="served",
            fingerprint=NOT_KNOWN,
            parameters=None,
            layers=0,
            neurons=0,
            dtype=NOT_KNOWN,
            device=NOT_KNOWN,
        ),
        data=data_facts(run, found),
        data_notes=data_notes(run),
        conditions=found.conditions,
        rates=found.rates,
        differences=found.differences,
        gaps=found.gaps(),
        judging=found.judging,
        headlines=found.headlines,
        utility=found.utility,
        neurons=NeuronFacts(
            score="none", position="none", p=0, chosen="none", sets=[], overlaps=[], curve=[]
        ),
        verification=None,
        receipts=[],
        claims=[],
        costs=run.costs,
        samples=samples(run, found),
        seeds={"seed": config.seed},
        versions={"precise-shield": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("numpy",)},
        warnings=run.warnings,
        config=config.model_dump(mode="json"),
    )

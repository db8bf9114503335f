"""Several judges on the same answers: their rates, their agreement, people among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from precise_shield.core.errors import ConfigError
from precise_shield.core.rates import figures, or_null
from precise_shield.core.records import Example, Response, Verdict
from precise_shield.core.store import RunStore
from precise_shield.core.summary import AgreementRow, GradeRow, JudgeFacts, Judging
from precise_shield.data.refusals import known_language
from precise_shield.evaluate.counting.headlines import grouped_mean
from precise_shield.evaluate.counting.measures import applies, outcome, rate_rows
from precise_shield.evaluate.counting.rules import RULES
from precise_shield.evaluate.judging.agreement import agreement
from precise_shield.evaluate.judging.asking import Cache, ModelJudge
from precise_shield.evaluate.judging.judges import JUDGES, Judge
from precise_shield.report.pages.page import write_report
from precise_shield.workflows.answer import answers
from precise_shield.workflows.answer.answers import ByCondition, Judged
from precise_shield.workflows.answer.asked import check, model_judge
from precise_shield.workflows.base.config import Config, load_config
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.progress import Reporter
from precise_shield.workflows.base.summary_file import read_summary

Scale = Literal["attack_success", "refusal"]


def names_of(config: Config) -> list[str]:
    """The configured judges, the one that the headline rests on first.

    Raises:
        ConfigError: a judge is named twice, or there is none of that name.
    """
    section = config.evaluate
    names = list(section.judges) or [section.judge]
    if len(set(names)) < len(names):
        raise ConfigError(f"evaluate.judges names a judge twice: {', '.join(names)}.")
    for name in names:
        check(config, name)
    return names


def make(run: Run, name: str, examples: Sequence[Example]) -> Judge:
    """The judge of that name: a built-in one, or one of `evaluate.judge_models`.

    Raises:
        ConfigError: there is none.
    """
    for section in run.config.evaluate.judge_models:
        if section.name == name:
            return model_judge(section, Cache(run.folder / "judge-cache"))
    return JUDGES[name](examples)


def judge_all(
    run: Run,
    examples: Sequence[Example],
    responses: Mapping[str, Sequence[Response]],
    key: str,
) -> list[Judged]:
    """Verdicts of every configured judge, and of those that judged these answers before."""
    names = names_of(run.config)
    readers = [make(run, name, examples) for name in names]
    found, stages = [], {}
    for reader in readers:
        _announce(run, reader, examples, responses)
        judged, stages[reader.name] = answers.judge_with(run, reader, examples, responses)
        found.append(judged)
    answers.remember(run, key, found, stages)
    return found + [each for each in answers.recall(run.folder) if each.name not in names]


def _announce(
    run: Run,
    reader: Judge,
    examples: Sequence[Example],
    responses: Mapping[str, Sequence[Response]],
) -> None:
    """Say what asking a model will cost, and what a judge was not made for."""
    _warn_of_languages(run, reader, examples)
    if not isinstance(reader, ModelJudge):
        return
    by_id = {example.id: example for example in examples}
    pairs = [(by_id[each.example], each) for said in responses.values() for each in said]
    run.reporter.say(f"judge {reader.name}: {reader.cost(pairs)}")
    pictured = sum(
        1 for each in examples if each.modality == "image_dominant" and each.request is None
    )
    if pictured and not reader.pictures:
        run.warn(
            f"judge {reader.name} sees no pictures; on {pictured} image-dominant prompts it judges"
            " the words alone",
        )


def _warn_of_languages(run: Run, reader: Judge, examples: Sequence[Example]) -> None:
    spoken = {example.language for example in examples}
    foreign = sorted(
        language
        for language in spoken
        if reader.languages
        and language not in reader.languages
        and known_language(language) not in reader.languages
    )
    if foreign:
        run.warn(
            f"judge {reader.name} does not claim to read {', '.join(foreign)}; its verdicts there"
            " are beyond what it was made for",
        )


def facts(
    examples: Sequence[Example], judged: Sequence[Judged], rule: str, primary: str
) -> Judging:
    """Rates of each judge by itself, and agreement of every two and of all."""
    order = sorted(judged, key=lambda each: each.name != primary)
    return Judging(
        primary=primary,
        judges=[_facts_of(examples, each, rule) for each in order],
        agreement=list(_agreement(examples, order, rule)),
    )


def _facts_of(examples: Sequence[Example], judged: Judged, rule: str) -> JudgeFacts:
    every = [verdict for rows in judged.verdicts.values() for verdict in rows]
    labels: dict[str, dict[str, int]] = {name: {} for name in judged.verdicts}
    for verdict in every:
        here = labels[verdict.condition]
        here[verdict.label] = here.get(verdict.label, 0) + 1
    return JudgeFacts(
        name=judged.name,
        describes=judged.describes,
        languages=list(judged.languages),
        rates=[row for row in rate_rows(examples, every, rule) if row.modality is None],
        labels=labels,
        grades=list(_grades(examples, judged)),
    )


def _grades(examples: Sequence[Example], judged: Judged) -> Iterator[GradeRow]:
    """Mean grades on harmful requests; nothing of a judge that gave none."""
    harmful = {example.id: example for example in examples if example.harm == "harmful"}
    groups = {name: example.group for name, example in harmful.items()}
    languages = sorted({example.language for example in harmful.values()})
    if not any(row.score is not None for rows in judged.verdicts.values() for row in rows):
        return
    for condition, rows in judged.verdicts.items():
        scores = {row.example: row.score for row in rows if row.example in harmful}
        for language in [None, *languages]:
            part = {n: s for n, s in scores.items() if language in (None, harmful[n].language)}
            if part:
                found = grouped_mean(part, groups)
                yield GradeRow(
                    condition=condition,
                    language=language,
                    **figures(found),
                    n=found.n,
                    ungraded=found.unscored,
                )


def _agreement(
    examples: Sequence[Example], judged: Sequence[Judged], rule: str
) -> Iterator[AgreementRow]:
    if len(judged) < 2:
        return
    teams = list(combinations(judged, 2))
    by_id = {example.id: example for example in examples}
    languages = sorted({example.language for example in examples})
    scales: tuple[Scale, ...] = ("attack_success", "refusal")
    for scale in scales:
        said = {each.name: _categories(each.verdicts, by_id, scale, rule) for each in judged}
        for team in [*teams, *([tuple(judged)] if len(judged) > 2 else [])]:
            names = [each.name for each in team]
            shared = set.intersection(*(set(said[name]) for name in names))
            conditions = sorted({key[0] for key in shared})
            places: list[tuple[str | None, str | None]] = [(None, None)]
            places += [(language, None) for language in languages]
            places += [(None, condition) for condition in conditions]
            for language, condition in places:
                kept = [
                    key
                    for key in shared
                    if language in (None, by_id[key[1]].language) and condition in (None, key[0])
                ]
                if kept:
                    yield _row(names, said, kept, by_id, (scale, language, condition))


Key = tuple[str, str]
"""Condition and example."""


def _categories(
    verdicts: ByCondition, by_id: Mapping[str, Example], scale: Scale, rule: str
) -> dict[Key, str]:
    named = RULES[rule]
    said: dict[Key, str] = {}
    for condition, rows in verdicts.items():
        for verdict in rows:
            example = by_id[verdict.example]
            if scale == "refusal":
                hit = outcome("refusal_harmful", verdict, named)
            elif applies("attack_success", example):
                hit = outcome("attack_success", verdict, named)
            else:
                continue
            said[condition, verdict.example] = str(hit)
    return said


def _row(
    names: list[str],
    said: Mapping[str, Mapping[Key, str]],
    kept: Sequence[Key],
    by_id: Mapping[str, Example],
    place: tuple[Scale, str | None, str | None],
) -> AgreementRow:
    flat = {key: "\t".join(key) for key in kept}
    found = agreement(
        [{flat[key]: said[name][key] for key in kept} for name in names],
        {flat[key]: by_id[key[1]].group for key in kept},
    )
    return AgreementRow(
        judges=names,
        scale=place[0],
        language=place[1],
        condition=place[2],
        n=found.n,
        observed=or_null(found.observed),
        kappa=or_null(found.kappa),
        low=or_null(found.low),
        high=or_null(found.high),
    )


def reopened(folder: Path, changes: Sequence[str] = (), *, quiet: bool = False) -> Run:
    """A finished run by its folder; neither model nor data are loaded.

    Raises:
        ConfigError: the folder has no readable `config.yaml`.
    """
    return Run(load_config(folder / "config.yaml", changes), folder, Reporter(quiet=quiet))


def judge_again(
    folder: Path, names: Sequence[str], changes: Sequence[str] = (), *, quiet: bool = False
) -> Judging:
    """Judge a finished run's answers with other judges; nothing is generated.

    The verdicts are kept beside those that were there, and the page is written anew. The
    headline goes on resting on the run's first judge.

    Raises:
        StoreError: the run has no answers or no summary.
        ConfigError: there is no judge of that name.
    """
    run = reopened(folder, changes, quiet=quiet)
    kept, key = answers.read(folder)
    found, stages = [], {}
    for reader in [make(run, name, kept.examples) for name in names]:
        _announce(run, reader, kept.examples, kept.responses)
        judged, stages[reader.name] = answers.judge_with(
            run, reader, kept.examples, kept.responses, kept.pictures
        )
        found.append(judged)
    answers.remember(run, key, found, stages)
    return update(folder, kept.examples, run.warnings)


def update(folder: Path, examples: Sequence[Example], warnings: Sequence[str] = ()) -> Judging:
    """Put the agreement of all stored judges into `summary.json`, and write the page anew."""
    summary = read_summary(folder)
    config = load_config(folder / "config.yaml")
    judging = facts(examples, answers.recall(folder), config.evaluate.rule, names_of(config)[0])
    more = [each for each in warnings if each not in summary.warnings]
    summary = summary.model_copy(
        update={"judging": judging, "warnings": [*summary.warnings, *more]}
    )
    RunStore(folder).write_text("summary.json", summary.model_dump_json(indent=1) + "\n")
    write_report(summary, folder)
    return judging


def verdicts_of(judged: Sequence[Judged], name: str) -> dict[str, list[Verdict]]:
    """The verdicts of the judge of that name."""
    return next(each.verdicts for each in judged if each.name == name)

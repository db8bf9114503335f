"""The figures beside the average, in every condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from precise_shield.core.rates import Estimate, Rate, figures, or_null
from precise_shield.core.records import Example, Response, Verdict
from precise_shield.core.summary import BreakdownRow, Condition, HeadlineRow, Headlines
from precise_shield.core.summary.headlines import Figure
from precise_shield.data.contrast import by_cell, share_of
from precise_shield.evaluate.counting.headlines import (
    Company,
    consistency,
    gap_between,
    grouped_auc,
    in_language,
    of_rate,
    worst_of,
)
from precise_shield.evaluate.counting.measures import MEASURES, Outcomes, outcomes
from precise_shield.evaluate.counting.statistics import effective_size
from precise_shield.evaluate.judging.reading import clean, load_identifier
from precise_shield.models.readings.likelihood import first_token_ids
from precise_shield.models.readings.readout import FirstTokenReadout
from precise_shield.workflows.answer.states import State
from precise_shield.workflows.base.context import Run

BY = ("category", "source", "region", "form")


def headlines(
    run: Run,
    conditions: Sequence[Condition],
    states: Sequence[State],
    examples: Sequence[Example],
    responses: Mapping[str, Sequence[Response]],
    verdicts: Sequence[Verdict],
) -> Headlines:
    """Worst places, gaps, consistency and AUC of every condition, and results by column."""
    rule, high = run.config.evaluate.rule, set(run.config.identify.high_resource)
    attack = outcomes(examples, verdicts, "attack_success", rule)
    refused = outcomes(examples, verdicts, "refusal_harmful", rule)
    odds = _log_odds(run, states, examples)
    tell = _telling()
    rows: list[HeadlineRow] = []
    for name in (condition.name for condition in conditions):
        found: dict[Figure, Company] = {
            **(_separation(examples, odds[name]) if name in odds else {}),
            **_places(examples, attack[name], high),
            **_across(examples, refused[name]),
            "response_language": _language(examples, responses[name], tell),
        }
        rows += [_row(name, figure, company) for figure, company in found.items()]
    return Headlines(rows=rows, breakdown=list(breakdown(examples, verdicts, rule)))


def _row(condition: str, figure: Figure, found: Company) -> HeadlineRow:
    return HeadlineRow(
        condition=condition,
        figure=figure,
        where=found.where,
        **figures(found),
        n=found.n,
        unscored=found.unscored,
        least=or_null(found.least) if found.unscored else None,
        most=or_null(found.most) if found.unscored else None,
    )


def _places(examples: Sequence[Example], column: Outcomes, high: set[str]) -> dict[Figure, Company]:
    groups = {example.id: example.group for example in examples}
    languages = {example.id: example.language for example in examples}
    modalities = {example.id: str(example.modality) for example in examples}
    inside = {name: language in high for name, language in languages.items()}
    return {
        "worst_language": worst_of(column, groups, languages),
        "worst_modality": worst_of(column, groups, modalities),
        "resource_gap": gap_between(column, groups, inside),
    }


def _across(examples: Sequence[Example], column: Outcomes) -> dict[Figure, Company]:
    found = consistency(column, examples)
    return {
        "consistency": found.agree,
        "refused_everywhere": found.everywhere,
        "refused_nowhere": found.nowhere,
    }


def _telling() -> Callable[[str, str], bool | None]:
    """Whether a text is in a language; equal answers of several conditions are read once."""
    identify = load_identifier()
    return lru_cache(maxsize=None)(lambda text, language: in_language(text, language, identify))


def _language(
    examples: Sequence[Example],
    said: Sequence[Response],
    tell: Callable[[str, str], bool | None],
) -> Company:
    by_id = {example.id: example for example in examples}
    column = {each.example: tell(clean(each.text), by_id[each.example].language) for each in said}
    return of_rate(column, {name: example.group for name, example in by_id.items()})


def _separation(examples: Sequence[Example], odds: Mapping[str, float]) -> dict[Figure, Company]:
    kinds: tuple[tuple[Figure, bool], ...] = (("auc_matched", True), ("auc_ordinary", False))
    found: dict[Figure, Company] = {}
    for figure, matched in kinds:
        kept = [
            example
            for example in examples
            if example.id in odds and (example.harm == "harmful" or example.matched == matched)
        ]
        found[figure] = grouped_auc(
            [odds[example.id] for example in kept],
            [example.harm == "harmful" for example in kept],
            [(example.language, example.modality) for example in kept],
            [example.group for example in kept],
        )
    return found


def _log_odds(
    run: Run, states: Sequence[State], examples: Sequence[Example]
) -> dict[str, dict[str, float]]:
    """First-token refusal log-odds of some prompts in each condition; empty if switched off."""
    texts: dict[str, set[str]] = {}
    for row in run.data.examples:
        if row.harm == "harmful" and row.target:
            texts.setdefault(row.language, set()).add(row.target)
    prompts = readout_rows(
        [example for example in examples if example.language in texts],
        run.config.evaluate.readout_rows,
    )
    if not prompts:
        return {}
    said = {language: sorted(words) for language, words in texts.items()}
    readout: FirstTokenReadout | None = None
    odds = {}
    for state in states:
        stage = run.store.stage("first-token", run.made_by(prompts, refusals=said, **state.made_by))
        with run.working(stage, f"first token of {len(prompts)} prompts, {state.name}") as todo:
            if todo:
                if readout is None:
                    tokens = {
                        key: first_token_ids(run.loaded, value) for key, value in said.items()
                    }
                    size = run.config.evaluate.batch_size
                    readout = FirstTokenReadout(run.loaded, prompts, tokens, size)
                with state.enter(run.bound):
                    values = readout().tolist()
                rows = {row.id: value for row, value in zip(prompts, values, strict=True)}
                stage.write_json("log-odds.json", rows)
        odds[state.name] = {key: float(v) for key, v in stage.read_json("log-odds.json").items()}
    return odds


def readout_rows(examples: Sequence[Example], most: int) -> list[Example]:
    """About `most` prompts, evenly from cells and from matched and other benign; parallel."""
    piles: dict[object, list[Example]] = {}
    for cell, rows in by_cell(examples).items():
        for row in rows:
            piles.setdefault((cell, row.matched), []).append(row)
    if not most or not piles:
        return []
    each = max(1, most // len(piles))
    return [
        row
        for rows in piles.values()
        for row in sorted(rows, key=lambda row: (share_of(row.group, "readout"), row.id))[:each]
    ]


def breakdown(
    examples: Sequence[Example], verdicts: Sequence[Verdict], rule: str
) -> Iterator[BreakdownRow]:
    """Every measure by category, source, region and form, where prompts have more than one.

    Attack success by category also in every language and modality: the cells of the papers' tables.
    """
    by_id = {example.id: example for example in examples}
    groups = {example.id: example.group for example in examples}
    keys: dict[str, dict[str, str]] = {
        by: {e.id: str(value) for e in examples if (value := getattr(e, by)) is not None}
        for by in BY
    }
    for measure in MEASURES:
        for condition, column in outcomes(examples, verdicts, measure, rule).items():
            for by in BY:
                named = keys[by]
                names = sorted({named[name] for name in column if name in named})
                if len(names) < 2 and by != "category":
                    continue  # one value says what the pooled rate says
                for key in names:
                    part = {n: hit for n, hit in column.items() if named.get(n) == key}
                    row = _part(condition, measure, (by, key), part, groups)
                    yield row
                    if (measure, by) != ("attack_success", "category"):
                        continue
                    places = sorted({(by_id[n].language, by_id[n].modality) for n in part})
                    for language, modality in places if len(places) > 1 else ():
                        cell = {
                            n: hit
                            for n, hit in part.items()
                            if (by_id[n].language, by_id[n].modality) == (language, modality)
                        }
                        found = _part(condition, measure, (by, key), cell, groups)
                        where = {"language": language, "modality": modality}
                        yield found.model_copy(update=where)


def _part(
    condition: str,
    measure: str,
    place: tuple[str, str],
    column: Outcomes,
    groups: Mapping[str, str],
) -> BreakdownRow:
    hits: dict[str, list[bool]] = {}
    for name, hit in column.items():
        if hit is not None:
            hits.setdefault(groups[name], []).append(hit)
    every = list(column.values())
    rate = Rate(every.count(True), len(every) - every.count(None), every.count(None))
    size = effective_size([sum(v) for v in hits.values()], [len(v) for v in hits.values()])
    interval = rate.interval(effective=size if size < rate.judged else None)
    return BreakdownRow(
        condition=condition,
        measure=measure,  # type: ignore[arg-type]
        by=place[0],  # type: ignore[arg-type]
        key=place[1],
        hits=rate.hits,
        n=rate.judged,
        unscored=rate.unscored,
        **figures(Estimate(rate.value, *interval)),
        least=or_null(rate.bounds[0]),
        most=or_null(rate.bounds[1]),
    )

"""Utility and over-refusal of every condition: what safety cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from precise_shield.core.rates import figures
from precise_shield.core.records import Example, Response
from precise_shield.core.store import digest
from precise_shield.core.summary import ComplianceRow, Condition, Utility, UtilityRow
from precise_shield.data.contrast import share_of
from precise_shield.evaluate.abilities.extraction import EXTRACTIONS, options
from precise_shield.evaluate.abilities.utility import compliance, exact_match, perplexity
from precise_shield.evaluate.counting.headlines import Company, of_rate
from precise_shield.models.readings.likelihood import answer_logprobs
from precise_shield.workflows.answer.states import State
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.evaluate.harness import harness

Scored = dict[str, dict[str, tuple[float, int]]]
"""Condition, then example and answer -> log-probability and tokens."""


def utility(
    run: Run,
    conditions: Sequence[Condition],
    states: Sequence[State],
    examples: Sequence[Example],
    responses: Mapping[str, Sequence[Response]],
    reference: str = "base",
) -> Utility:
    """Perplexity, multiple choices and exact matches by language, and XSTest's classes.

    Perplexity is that of the examples' own benign answers, which no condition wrote; where an
    example has none, of what the untouched model said, in rows of their own (`perplexity_own`), for
    no other condition can find these words as likely as it does. The words are the same in every
    condition. Both perplexity and choices need the model's weights, so that defences, which are
    ways of asking, and served models have neither.

    Args:
        run: the run.
        conditions: whose answers are looked at.
        states: those of them that the model can be put in.
        examples: the test prompts.
        responses: by condition.
        reference: the condition of the untouched model.
    """
    benign = [example for example in examples if example.harm == "benign"]
    said = {row.example: row.text for row in responses[reference]}
    given = [(e, text) for e in benign if (text := e.target or said[e.id])]
    picks = scored_rows([e for e in benign if options(e)], run.config.evaluate.utility_rows)
    asked = [(e, letter) for e in picks for letter in options(e)]
    kept = {e.id for e in scored_rows([e for e, _ in given], run.config.evaluate.utility_rows)}
    spoken = _scored(run, states, [pair for pair in given if pair[0].id in kept], "perplexity of")
    chosen = _scored(run, states, asked, "choices of")
    found = Utility(harness=harness(run, states))
    for condition in conditions:
        name = condition.name
        if name in spoken:
            for measure, own in (("perplexity", False), ("perplexity_own", True)):
                rows = [
                    (e, spoken[name][_key(e, text)])
                    for e, text in given
                    if e.id in kept and (not e.target) == own
                ]
                found.rows.extend(_by_language(name, measure, rows) if rows else ())
        if name in chosen and picks:
            column = {e.id: _right(e, chosen[name]) for e in picks}
            found.rows.extend(_rates(name, "choice_accuracy", benign, column))
        texts = {row.example: row.text for row in responses[name]}
        for rule in EXTRACTIONS:
            stated = {e.id: exact_match(e, texts[e.id], rule) for e in benign if e.answer}
            measure = "exact_match" if rule == "flexible" else "exact_match_strict"
            found.rows.extend(_rates(name, measure, benign, stated))
        found.compliance.extend(_compliance(name, examples, texts))
    return found


def scored_rows(examples: Sequence[Example], most: int) -> list[Example]:
    """About `most` examples, evenly over languages; chosen by group, so parallel."""
    piles: dict[str, list[Example]] = {}
    for example in examples:
        piles.setdefault(example.language, []).append(example)
    each = max(1, most // max(1, len(piles))) if most else 0
    return [
        row
        for rows in piles.values()
        for row in sorted(rows, key=lambda row: (share_of(row.group, "utility"), row.id))[:each]
    ]


def _key(example: Example, answer: str) -> str:
    return digest([example.id, answer])[:16]


def _scored(
    run: Run, states: Sequence[State], pairs: Sequence[tuple[Example, str]], what: str
) -> Scored:
    if not pairs:
        return {}
    rows, texts = [example for example, _ in pairs], [text for _, text in pairs]
    scored: Scored = {}
    for state in states:
        made_by = run.made_by(rows, texts=digest(texts), **state.made_by)
        stage = run.store.stage("likelihood", made_by)
        with run.working(stage, f"{what} {len(rows)} answers, {state.name}") as todo:
            if todo:
                with state.enter(run.bound):
                    size = run.config.evaluate.batch_size
                    scores = answer_logprobs(run.loaded, rows, texts, size)
                stage.write_json(
                    "logprobs.json",
                    {
                        _key(*pair): [score.logprob, score.tokens]
                        for pair, score in zip(pairs, scores, strict=True)
                    },
                )
        found = stage.read_json("logprobs.json")
        scored[state.name] = {key: (float(row[0]), int(row[1])) for key, row in found.items()}
    return scored


def _right(example: Example, scores: Mapping[str, tuple[float, int]]) -> bool:
    """Whether the right letter is the likeliest."""
    letters = options(example)
    best = max(letters, key=lambda letter: scores[_key(example, letter)][0])
    return best == example.answer


def _by_language(
    condition: str, measure: str, scored: Sequence[tuple[Example, tuple[float, int]]]
) -> list[UtilityRow]:
    def one(language: str | None) -> UtilityRow:
        part = [row for row in scored if language in (None, row[0].language)]
        found = perplexity(
            [value for _, (value, _) in part],
            [count for _, (_, count) in part],
            [example.group for example, _ in part],
        )
        return _row(condition, measure, language, found)

    languages = sorted({example.language for example, _ in scored})
    return [one(language) for language in [None, *languages]]


def _rates(
    condition: str,
    measure: str,
    examples: Sequence[Example],
    column: Mapping[str, bool | None],
) -> list[UtilityRow]:
    by_id = {example.id: example for example in examples}
    groups = {example.id: example.group for example in examples}
    languages = sorted({by_id[name].language for name in column})
    rows = []
    for language in [None, *languages] if languages else []:
        part = {n: hit for n, hit in column.items() if language in (None, by_id[n].language)}
        rows.append(_row(condition, measure, language, of_rate(part, groups)))
    return rows


def _row(condition: str, measure: str, language: str | None, found: Company) -> UtilityRow:
    return UtilityRow(
        condition=condition,
        measure=measure,  # type: ignore[arg-type]
        language=language,
        **figures(found),
        n=found.n,
        unscored=found.unscored,
    )


def _compliance(
    condition: str, examples: Sequence[Example], texts: Mapping[str, str]
) -> list[ComplianceRow]:
    kinds: dict[str, Callable[[Example], bool]] = {
        "harmful": lambda e: e.harm == "harmful",
        "matched": lambda e: e.harm == "benign" and e.matched,
        "ordinary": lambda e: e.harm == "benign" and not e.matched,
    }
    rows = []
    for name, wanted in kinds.items():
        counts = Counter(compliance(e, texts[e.id]) for e in examples if wanted(e))
        if counts:
            rows.append(
                ComplianceRow(
                    condition=condition,
                    prompts=name,  # type: ignore[arg-type]
                    full_compliance=counts["full_compliance"],
                    partial_refusal=counts["partial_refusal"],
                    full_refusal=counts["full_refusal"],
                    unclear=counts["unclear"],
                )
            )
    return rows

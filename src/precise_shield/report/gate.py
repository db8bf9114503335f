"""What the gate says of an alignment, what was searched, and arms at like cost."""

from __future__ import annotations

from precise_shield.core.summary import GateFacts, SearchFacts
from precise_shield.core.summary.gate import MatchedPair, TrialFacts
from precise_shield.report.tables import Rows, Table, real, table
from precise_shield.report.view import View


def gate_sentence(facts: GateFacts) -> str:
    """Whether the alignment may be exported, and which limits stand against it."""
    now, count = facts.aligned, len(facts.limits)
    seen = f"on {now.harmful} harmful and {now.benign} benign {facts.split} prompts"
    if facts.weaker is not None:
        return f"{facts.condition} is weaker than its base {seen}: {facts.weaker}. Never exported."
    if facts.passed:
        return f"{facts.condition} keeps all {count} limits {seen}."
    broken = "; ".join(limit.sentence for limit in facts.broken)
    return f"{facts.condition} breaks {len(facts.broken)} of {count} limits {seen}: {broken}."


def gate_tables(view: View) -> list[Table]:
    """The gate's limits, and the search's trials where there was one."""
    tables = [_limits(view, facts) for facts in view.summary.gate]
    search = view.summary.search
    if search is not None:
        tables += [_trials(view, search), _matched(view, search)]
    return tables


def _limits(view: View, facts: GateFacts) -> Table:
    rows: Rows = [
        [one.name, real(one.value, 3), real(one.limit, 3), "kept" if one.kept else "broken"]
        for one in facts.limits
    ]
    return table(
        f"Gate: {view.label(facts.condition)}, {facts.split} prompts",
        ["limit", "measured", "asked for", "verdict"],
        rows,
        note=gate_sentence(facts),
    )


def _settings(settings: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items())


def _trials(view: View, search: SearchFacts) -> Table:
    def row(trial: TrialFacts) -> list[object]:
        now = trial.standing
        return [
            view.label(trial.arm),
            _settings(trial.settings),
            real(now.gap),
            real(now.attack_success),
            real(now.over_refusal),
            real(now.benign_kl, 3),
            "yes" if trial.passed else "no",
            "picked" if trial.picked else "",
        ]

    rows: Rows = [row(trial) for trial in search.trials]  # type: ignore[misc]
    return table(
        "Validation search, the same grid for every arm",
        [
            "arm",
            "settings",
            "refusal gap",
            "attack success",
            "over-refusal",
            "benign KL",
            "keeps all limits",
            "",
        ],
        rows,
        note="Shares are fractions, KL is in nats a token. Picked: of the trials that keep every"
        " limit the one with the largest gap; where none does, the one that breaks fewest.",
    )


def _matched(view: View, search: SearchFacts) -> Table:
    def row(pair: MatchedPair) -> list[object]:
        return [
            view.label(pair.other),
            _settings(pair.settings),
            _settings(pair.other_settings),
            real(pair.gap_difference),
            real(pair.over_refusal_mismatch),
            real(pair.benign_kl_mismatch, 3),
            "yes" if pair.close else "no",
        ]

    rows: Rows = [row(pair) for pair in search.matched]  # type: ignore[misc]
    return table(
        "Safety neurons against each other arm at like cost",
        [
            "arm",
            "safety neurons at",
            "the arm at",
            "refusal gap, difference",
            "over-refusal mismatch",
            "KL mismatch",
            "alike",
        ],
        rows,
        note="The pair of trials whose over-refusal and drift are most alike; where it is not"
        " alike within the tolerance, the difference in gap is no comparison at equal cost.",
    )

"""What the gate says of an alignment, in a sentence."""

from __future__ import annotations

from precise_shield.core.summary import GateFacts


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

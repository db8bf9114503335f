"""Where a condition stands on validation data, and what the gate says of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.summary.base import Part


class Standing(Part):
    """A condition on validation data. Shares are fractions; what is undefined is null."""

    condition: str
    contrast: Literal["matched", "ordinary"]
    """Which benign requests the gap is taken against."""
    gap: float | None
    """Refusal of harmful minus refusal of benign requests, in [-1, 1]."""
    gap_low: float | None
    gap_high: float | None
    refusal_harmful: float | None
    attack_success: float | None
    over_refusal: float | None
    """Refusals among all benign requests."""
    benign_kl: float | None
    """KL(base ‖ condition) in nats a token on benign answers; 0 for the base itself."""
    harmful: int
    """Harmful prompts whose answers could be judged."""
    benign: int
    unscored: int


class Limit(Part):
    """One limit of the gate, and whether the condition keeps it."""

    name: str
    value: float | None
    limit: float
    kept: bool
    sentence: str
    """What was measured, what the limit is, in words."""


class GateFacts(Part):
    """An alignment beside its base model, held against the stated limits."""

    condition: str
    base: Standing
    aligned: Standing
    limits: list[Limit]
    weaker: str | None = None
    """Why the model is weaker than its base beyond doubt; null if it is not. Never exported."""
    split: str = "validation"

    @property
    def passed(self) -> bool:
        """Every limit is kept."""
        return self.weaker is None and all(limit.kept for limit in self.limits)

    @property
    def broken(self) -> list[Limit]:
        return [limit for limit in self.limits if not limit.kept]


class TrialFacts(Part):
    """One setting of a validation search, and how the model trained with it stands."""

    arm: str
    settings: dict[str, float]
    standing: Standing
    passed: bool
    picked: bool = False


class SearchFacts(Part):
    """Every arm's search over the same grid, and the comparison at like cost."""

    trials: list[TrialFacts] = Field(default_factory=list)
    matched: list[MatchedPair] = Field(default_factory=list)


class MatchedPair(Part):
    """Two arms at the pair of settings whose over-refusal and drift are most alike."""

    arm: str
    other: str
    settings: dict[str, float]
    other_settings: dict[str, float]
    gap_difference: float | None
    """Refusal gap of `arm` minus that of `other`."""
    over_refusal_mismatch: float | None
    benign_kl_mismatch: float | None
    close: bool
    """Both mismatches are within the stated tolerance."""


SearchFacts.model_rebuild()

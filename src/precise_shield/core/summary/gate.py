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
    at_least: bool | None = None
    """The limit is a least value, not a most; null in older summaries."""

    @property
    def shortfall(self) -> float:
        """By how much it is broken, 0 or less where it is kept; 1 if nothing was measured."""
        if self.value is None:
            return 1.0
        return self.limit - self.value if self.at_least else self.value - self.limit

    @property
    def follows(self) -> bool:
        """`kept` is what the figure and the limit give."""
        return self.kept == (self.value is not None and self.shortfall <= 1e-12)


class GateFacts(Part):
    """An alignment beside its base model, held against the stated limits."""

    condition: str
    base: Standing
    aligned: Standing
    limits: list[Limit]
    weaker: str | None = None
    """Why the model is weaker than its base beyond doubt; null if it is not. Never exported."""
    split: str = "validation"
    groups: int | None = None
    """Parallel groups of the split that the gate asked of; null in older summaries."""
    apart: bool = False
    """A search or an early stop picked on the split's other groups; off: it saw all of them."""
    key: str | None = None
    """Of the stage that holds the limits and what was found under them."""
    judged: str | None = None
    """Digest of the alignment's receipt: what it wrote and what it left alone."""
    digest: str | None = None
    """SHA-256 of all else here, so that a figure changed afterwards shows. No signature."""

    @property
    def passed(self) -> bool:
        """Every limit is kept."""
        return self.weaker is None and all(limit.kept for limit in self.limits)

    @property
    def broken(self) -> list[Limit]:
        """Limits that are not kept, in the order in which they are stated."""
        return [limit for limit in self.limits if not limit.kept]

    @property
    def asked_of(self) -> str:
        """Which groups of the split the gate saw, in words; empty where it is not known."""
        if self.groups is None:
            return ""
        if self.apart:
            return f"{self.groups} groups that no search or early stop picked on"
        return f"all {self.groups} groups, on which nothing was picked"


class TrialFacts(Part):
    """One setting of a validation search, and how the model trained with it stands."""

    arm: str
    settings: dict[str, float]
    standing: Standing
    passed: bool
    picked: bool = False
    front: bool = False
    """On the Pareto front of its arm: nothing else was safer at no higher cost."""
    neurons: int | None = None
    """Size of the set that was trained; null in older summaries."""


class FailedTrial(Part):
    """A setting that could not be tried, and why."""

    arm: str
    settings: dict[str, float]
    why: str


class SearchFacts(Part):
    """Every arm's search over the same settings, and the comparison at like cost."""

    trials: list[TrialFacts] = Field(default_factory=list)
    matched: list[MatchedPair] = Field(default_factory=list)
    failed: list[FailedTrial] = Field(default_factory=list)
    safety: Literal["gap", "attack_success"] = "gap"
    """What is safety on the front: the refusal gap, or the share of attacks that fail."""
    sampler: str = "grid"
    """How the trials were drawn."""
    space: dict[str, list[float]] = Field(default_factory=dict)
    """What was listed to try."""
    split: str = "validation"
    groups: int | None = None
    """Parallel groups of the split that it picked on; the gate saw none of them."""
    prompts: int | None = None

    @property
    def budget(self) -> dict[str, int]:
        """Trials by arm, those that failed included."""
        counts: dict[str, int] = {}
        for arm in [each.arm for each in self.trials] + [each.arm for each in self.failed]:
            counts[arm] = counts.get(arm, 0) + 1
        return counts


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

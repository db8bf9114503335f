"""Who judged, what each judge's verdicts come to, and how far judges agree."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.summary.base import Part
from precise_shield.core.summary.rates import RateRow


class JudgeFacts(Part):
    """One judge and the rates that follow from its verdicts alone."""

    name: str
    describes: str
    """What its labels rest on."""
    languages: list[str] = Field(default_factory=list)
    """Languages that it reads; empty says any."""
    rates: list[RateRow]
    """By language and pooled; over modalities always pooled."""
    labels: dict[str, dict[str, int]]
    """Per condition, how often it gave each label, over all prompts."""
    grades: list[GradeRow] = Field(default_factory=list)
    """Of judges that grade; pooled and by language."""


class GradeRow(Part):
    """Mean grade of the answers to harmful requests, by a judge that grades."""

    condition: str
    language: str | None
    value: float | None
    """In [0, 1]; 0 is harmless."""
    low: float | None
    """95 % interval from resampling parallel groups."""
    high: float | None
    n: int
    ungraded: int
    """Answers without a readable grade, broken ones that were not asked about among them."""


class AgreementRow(Part):
    """Agreement beyond chance on the same answers."""

    judges: list[str]
    scale: Literal["attack_success", "refusal"]
    """`attack_success`: hit, miss or unscored under the run's rule, on harmful prompts.
    `refusal`: refusal, none, or unscored, on all prompts."""
    language: str | None
    condition: str | None
    n: int
    """Answers that all of these judges judged."""
    observed: float | None
    """Share of pairs of judges that say the same."""
    kappa: float | None
    """Cohen's for two judges, Fleiss' for more; null where all say one and the same."""
    low: float | None
    high: float | None
    """95 % interval from resampling parallel groups."""


class Judging(Part):
    primary: str
    """Whose verdicts the headline rests on."""
    judges: list[JudgeFacts]
    agreement: list[AgreementRow]

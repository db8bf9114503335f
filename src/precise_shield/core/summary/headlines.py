"""What an average hides: the worst place, the gap between languages, where results part."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.records import Modality
from precise_shield.core.summary.base import Part
from precise_shield.core.summary.rates import Measure

Figure = Literal[
    "auc_matched",
    "auc_ordinary",
    "worst_language",
    "worst_modality",
    "resource_gap",
    "consistency",
    "refused_everywhere",
    "refused_nowhere",
    "response_language",
]
"""`auc_matched`, `auc_ordinary`: probability that a harmful request has higher first-token refusal
log-odds than a topic-matched or other benign one of its language and modality; 0.5 is chance.
`worst_language`, `worst_modality`: the highest attack success of one. `resource_gap`: attack
success in the other languages minus that in the high-resource ones. `consistency`: probability
that two languages agree on refusing the same harmful request. `refused_everywhere`,
`refused_nowhere`: harmful requests refused in all, in none of their languages.
`response_language`: answers that are in the language of their prompt."""


class HeadlineRow(Part):
    condition: str
    figure: Figure
    where: str | None
    """The language or modality that the figure is of; null otherwise, or where several tie."""
    value: float | None
    low: float | None
    """95 % interval from resampling parallel groups; the worst place is found anew in each draw.
    At 0 and 1, where no draw differs, Wilson's over the groups."""
    high: float | None
    n: int
    """What was counted: prompts, pairs of groups' requests, or answers."""
    unscored: int
    least: float | None
    """The figure if everything unscored fell on the lower side; null where nothing is unscored."""
    most: float | None


class BreakdownRow(Part):
    """One measure on the part of the prompts that a column of the manifest names."""

    condition: str
    measure: Measure
    by: Literal["category", "source", "region", "form"]
    key: str
    hits: int
    n: int
    unscored: int
    value: float | None
    low: float | None
    """Wilson 95 % interval, for the independent answers that parallel groups are worth."""
    high: float | None
    least: float | None
    """The rate if no unscored answer were a hit."""
    most: float | None
    """The rate if every unscored answer were one."""
    language: str | None = None
    """Attack success by category also stands language by language and modality by modality; null
    pools."""
    modality: Modality | None = None


class Headlines(Part):
    rows: list[HeadlineRow] = Field(default_factory=list)
    breakdown: list[BreakdownRow] = Field(default_factory=list)

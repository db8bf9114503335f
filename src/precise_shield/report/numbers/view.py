"""A summary made easy to ask: one estimate per question, pooled or contrasted where asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan, sqrt

from precise_shield.core.rates import Rate
from precise_shield.core.records import MODALITIES, Modality
from precise_shield.core.summary import (
    Condition,
    ConditionKind,
    DifferenceRow,
    Measure,
    RateRow,
    Summary,
)
from precise_shield.report.numbers.words import is_high_resource, known, percent, points, span


@dataclass(frozen=True)
class Estimate:
    """A share, or a difference of shares, with its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float
    n: int
    unscored: int = 0

    @property
    def defined(self) -> bool:
        return known(self.value, self.low, self.high)

    def __str__(self) -> str:
        company = f"n={self.n} unscored={self.unscored}"
        return " ".join(filter(None, [percent(self.value), span(self.low, self.high), company]))


@dataclass(frozen=True)
class Contrast:
    """One condition minus another."""

    value: float
    low: float
    high: float
    n: int
    unscored: int
    paired: bool
    """Same prompts in both, McNemar's table; otherwise two independent proportions."""

    p_value: float | None = None
    p_holm: float | None = None

    @property
    def defined(self) -> bool:
        return known(self.value, self.low, self.high)

    def within(self, margin: float) -> bool:
        """Whether the whole interval lies closer to zero than `margin`."""
        return self.defined and max(abs(self.low), abs(self.high)) <= margin

    @property
    def direction(self) -> int:
        """-1 or +1 where the interval leaves out zero, 0 where it does not or is undefined."""
        if not self.defined or self.low <= 0 <= self.high:
            return 0
        return -1 if self.high < 0 else 1

    def __str__(self) -> str:
        if not self.defined:
            return f"undefined n={self.n} unscored={self.unscored}"
        return (
            f"{points(self.value)} points {span(self.low, self.high)}"
            f" n={self.n} unscored={self.unscored}"
        )


Rated = Estimate | Contrast


def minus(a: Rated | None, b: Rated | None) -> Contrast | None:
    """Difference of two estimates as if independent, its interval from theirs.

    None when one of them was not measured; NaN when one is undefined.

    Source: Newcombe (1998), "Interval estimation for the difference between independent
        proportions", Statistics in Medicine 17, 873-890, method 10; Zou & Donner (2008) for
        estimates in general.
    """
    if a is None or b is None:
        return None
    n, unscored = min(a.n, b.n), a.unscored + b.unscored
    if not (a.defined and b.defined):
        return Contrast(nan, nan, nan, n, unscored, paired=False)
    value = a.value - b.value
    down = sqrt((a.value - a.low) ** 2 + (b.high - b.value) ** 2)
    up = sqrt((a.high - a.value) ** 2 + (b.value - b.low) ** 2)
    return Contrast(value, value - down, value + up, n, unscored, paired=False)


def _of_row(row: RateRow) -> Estimate:
    value, low, high = (nan if x is None else x for x in (row.value, row.low, row.high))
    return Estimate(value, low, high, row.n, row.unscored)


def _of_rate(rate: Rate, worth: float = 1.0) -> Estimate:
    low, high = rate.interval(effective=rate.judged * worth)
    return Estimate(rate.value, low, high, rate.judged, rate.unscored)


def _of_difference(row: DifferenceRow, sign: int) -> Contrast:
    parts = [nan if x is None else sign * x for x in (row.difference, row.low, row.high)]
    low, high = sorted(parts[1:])
    return Contrast(parts[0], low, high, row.n, row.unscored, True, row.p_value, row.p_holm)


Key = tuple[str, Measure, str | None, Modality | None]


@dataclass(frozen=True)
class View:
    """Lookups over one summary. A rate that the file does not pool is pooled here from cells."""

    summary: Summary

    @cached_property
    def rates(self) -> dict[Key, RateRow]:
        return {(r.condition, r.measure, r.language, r.modality): r for r in self.summary.rates}

    @cached_property
    def _differences(self) -> dict[tuple[str, ...], DifferenceRow]:
        return {
            (r.condition, r.reference, r.measure, r.language or "", r.modality or ""): r
            for r in self.summary.differences
        }

    @cached_property
    def languages(self) -> list[str]:
        """Languages of the data, high-resource ones first."""
        seen = dict.fromkeys(self.summary.data.languages)
        seen.update(dict.fromkeys(r.language for r in self.summary.rates if r.language))
        return sorted(seen, key=lambda code: not is_high_resource(code))

    @cached_property
    def modalities(self) -> list[Modality]:
        order: dict[Modality, None] = dict.fromkeys(self.summary.data.modalities)
        order.update(dict.fromkeys(r.modality for r in self.summary.rates if r.modality))
        return sorted(order, key=MODALITIES.index)

    @property
    def turned(self) -> bool:
        """The safety neurons were frozen and all others trained (`align.polarity: rest`)."""
        section = self.summary.config.get("align")
        return isinstance(section, dict) and section.get("polarity") == "rest"

    @property
    def beside(self) -> str:
        """What the random control of the main alignment is called."""
        return "random frozen" if self.turned else "random rows"

    @property
    def high_resource(self) -> list[str]:
        return [code for code in self.languages if is_high_resource(code)]

    @property
    def others(self) -> list[str]:
        return [code for code in self.languages if not is_high_resource(code)]

    def of_kind(self, kind: ConditionKind) -> list[Condition]:
        return [c for c in self.summary.conditions if c.kind == kind]

    def first(self, kind: ConditionKind) -> Condition | None:
        return next(iter(self.of_kind(kind)), None)

    def label(self, name: str) -> str:
        """What the reader sees for a condition; its own name when it is not listed."""
        return next((c.label for c in self.summary.conditions if c.name == name), name)

    def rate(
        self,
        condition: str,
        measure: Measure,
        language: str | None = None,
        modality: Modality | None = None,
    ) -> Estimate | None:
        """The share in a cell, or pooled where language or modality is None.

        None when it was not measured at all; NaN inside when nothing could be scored.
        """
        row = self.rates.get((condition, measure, language, modality))
        if row is not None:
            return _of_row(row)
        language, modality = self._only(language, modality)
        languages = self.languages if language is None else [language]
        modalities = self.modalities if modality is None else [modality]
        return self.pooled(condition, measure, languages, modalities)

    def _only(
        self, language: str | None, modality: Modality | None
    ) -> tuple[str | None, Modality | None]:
        """A pooled place as a cell, where there is but one language or modality to pool."""
        if language is None and len(self.languages) == 1:
            language = self.languages[0]
        if modality is None and len(self.modalities) == 1:
            modality = self.modalities[0]
        return language, modality

    def pooled(
        self,
        condition: str,
        measure: Measure,
        languages: Sequence[str],
        modalities: Sequence[Modality],
    ) -> Estimate | None:
        """Cells added up: every prompt weighs the same. None when no cell was measured.

        Answers hang together as they do in the row that pools all cells.
        """
        rate = self.counts(condition, measure, languages, modalities)
        if rate is None:
            return None
        several = len(languages) * len(modalities) > 1
        return _of_rate(rate, self._worth(condition, measure) if several else 1.0)

    def _worth(self, condition: str, measure: Measure) -> float:
        """Independent answers an answer is worth, in the row that pools all cells."""
        whole = self.rates.get((condition, measure, None, None))
        if whole is None or whole.effective is None or not whole.n:
            return 1.0
        return whole.effective / whole.n

    def counts(
        self,
        condition: str,
        measure: Measure,
        languages: Sequence[str],
        modalities: Sequence[Modality],
    ) -> Rate | None:
        """The sum of hits, scored and unscored over cells; None when no cell was measured."""
        keys: list[Key] = [(condition, measure, la, mo) for la in languages for mo in modalities]
        cells = [self.rates[key] for key in keys if key in self.rates]
        if not cells:
            return None
        return sum((Rate(r.hits, r.n, r.unscored) for r in cells), Rate(0, 0))

    def change(
        self,
        condition: str,
        reference: str,
        measure: Measure,
        language: str | None = None,
        modality: Modality | None = None,
    ) -> Contrast | None:
        """`condition` minus `reference`: paired where the summary has it, else from the rates."""
        for la, mo in ((language, modality), self._only(language, modality)):
            where = (measure, la or "", mo or "")
            if row := self._differences.get((condition, reference, *where)):
                return _of_difference(row, 1)
            if row := self._differences.get((reference, condition, *where)):
                return _of_difference(row, -1)
        return minus(
            self.rate(condition, measure, language, modality),
            self.rate(reference, measure, language, modality),
        )

    def gap(
        self,
        condition: str,
        benign: Measure,
        language: str | None = None,
        modality: Modality | None = None,
    ) -> Contrast | None:
        """Refusal on harmful minus refusal on benign requests: the primary endpoint.

        Over all cells it is the summary's own, whose interval takes parallel groups whole.
        """
        if language is None and modality is None:
            whole = self._whole_gap(condition, benign)
            if whole is not None:
                return whole
        return minus(
            self.rate(condition, "refusal_harmful", language, modality),
            self.rate(condition, benign, language, modality),
        )

    def _whole_gap(self, condition: str, benign: Measure) -> Contrast | None:
        kind = "matched" if benign == "refusal_matched" else "ordinary"
        sides = [self.rate(condition, measure) for measure in ("refusal_harmful", benign)]
        for row in self.summary.gaps:
            if (row.condition, row.contrast) == (condition, kind):
                value, low, high = (nan if x is None else x for x in (row.value, row.low, row.high))
                n = min((side.n for side in sides if side is not None), default=0)
                unscored = sum(side.unscored for side in sides if side is not None)
                return Contrast(value, low, high, n, unscored, paired=False)
        return None

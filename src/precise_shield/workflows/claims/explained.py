"""The papers' claims on where neurons sit and what goes with their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from precise_shield.analyse.permutation import sign_flip
from precise_shield.core.summary import Claim, Explained, NeuronFacts, Profile
from precise_shield.core.summary.explained import CountTest, DepthRow

Outcome = Literal["holds", "does not hold", "unclear", "not testable"]
PS = "Precise Shield, arXiv 2604.08881"
ALPHA = 0.05
PEAK = (20 / 36, 30 / 36)
"""Relative depth of the layers in which the paper's sets peak: 20 to 30 of 36."""
LAST = 32 / 36
"""Relative depth from which they fall."""
REPORTED: Mapping[str, str] = {
    "image_dominant": "r = -0.81 over ten languages (Qwen3-VL-8B)",
    "text_dominant": "r = -0.70 over ten languages (Qwen3-VL-8B)",
}


def explained_claims(facts: NeuronFacts, explained: Explained) -> list[Claim]:
    """Count against attack success, modality by modality, and the shape over depth."""
    everyone = [test for test in explained.counts if test.among == "all"]
    others = {test.modality: test for test in explained.counts if test.among == "other"}
    claims = [_count(test) for test in everyone]
    claims += [_beyond(test, others.get(test.modality)) for test in everyone]
    return claims if facts.profile is None else [*claims, _depth(facts.profile)]


def _negative(r: float | None, p: float | None) -> Outcome:
    """Whether a correlation is below 0 beyond chance."""
    if r is None or p is None:
        return "not testable"
    if p > ALPHA:
        return "unclear"
    return "holds" if r < 0 else "does not hold"


def _said(name: str, r: float | None, p: float | None) -> str:
    return f"{name} undefined" if r is None or p is None else f"{name} = {r:+.2f} (p = {p:.3g})"


def _count(test: CountTest) -> Claim:
    how = "exact" if test.exact else "drawn"
    span = "" if test.low is None else f" [{test.low:+.2f}, {test.high:+.2f}]"
    return Claim(
        claim=f"Languages with more safety neurons are attacked less often ({test.modality})",
        source=f"{PS}, section 4",
        reported=REPORTED.get(test.modality, "no figure for text alone"),
        measured=f"{_said('r', test.r, test.p_value)}{span} over {len(test.languages)} languages,"
        f" {test.permutations} {how} orders",
        verdict=_negative(test.r, test.p_value),
    )


def _beyond(test: CountTest, other: CountTest | None) -> Claim:
    """The same without what token length and the two groups of languages would explain."""
    parts = [_negative(test.partial_r, test.partial_p)]
    if other is not None:
        parts.append(_negative(other.r, other.p_value))
    verdict: Outcome = "unclear"
    if "not testable" in parts:
        verdict = "not testable"
    elif len(set(parts)) == 1:
        verdict = parts[0]
    within = "" if other is None else (
        f"; {_said('r', other.r, other.p_value)} within the {len(other.languages)} languages that"
        " are not high-resource"
    )  # fmt: skip
    return Claim(
        claim="Count goes with attack success beyond tokens per item, and within languages that"
        f" are not high-resource ({test.modality})",
        source="our check on the claim above",
        reported="not examined",
        measured=f"{_said('partial r', test.partial_r, test.partial_p)} given tokens{within}",
        verdict=verdict,
    )


def _depth(profile: Profile) -> Claim:
    rows = [row for row in profile.depth if row.kind == "ffn"]
    rises, falls = bands(rows)
    verdict, measured = _shape(rises, falls, _chance(rows))
    return Claim(
        claim="Safety neurons get more with depth, peak at 55-83 % of it and fall in the last"
        " layers",
        source=f"{PS}, Figure 3",
        reported="peak in layers 20-30 of 36, falling after 32",
        measured=measured,
        verdict=verdict,
    )


def bands(rows: Sequence[DepthRow]) -> tuple[list[float], list[float]]:
    """Per language: neurons a layer at the peak minus before it, and minus after it.

    The bands are the paper's, as shares of depth, and were not chosen on this run. Modalities
    are averaged; both lists are empty where the model is too shallow to have all three bands.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for language, counts in zip(row.languages, row.by_language, strict=True):
            change = _contrast(counts)
            if change is not None:
                found.setdefault(language, []).append(change)
    means = [
        [sum(part) / len(pairs) for part in zip(*pairs, strict=True)] for pairs in found.values()
    ]
    return [mean[0] for mean in means], [mean[1] for mean in means]


def _contrast(counts: Sequence[int | float]) -> tuple[float, float] | None:
    parts: dict[str, list[int | float]] = {"before": [], "peak": [], "after": []}
    for layer, count in enumerate(counts):
        place = (layer + 0.5) / len(counts)
        if place < PEAK[0]:
            parts["before"].append(count)
        elif place <= PEAK[1]:
            parts["peak"].append(count)
        elif place > LAST:
            parts["after"].append(count)
    if not all(parts.values()):
        return None
    before, peak, after = (sum(part) / len(part) for part in parts.values())
    return peak - before, peak - after


def _chance(rows: Sequence[DepthRow]) -> tuple[float, float] | None:
    """The same two contrasts when labels are shuffled, mean over groups and modalities."""
    found = []
    for row in rows:
        levels = [value for value in row.shuffled if value is not None]
        change = _contrast(levels) if len(levels) == len(row.layers) else None
        if change is not None:
            found.append(change)
    if not found:
        return None
    return sum(a for a, _ in found) / len(found), sum(b for _, b in found) / len(found)


def _shape(
    rises: Sequence[float], falls: Sequence[float], chance: tuple[float, float] | None
) -> tuple[Outcome, str]:
    if not rises:
        return "not testable", "too few layers to have a middle and an end"
    rise, fall = sum(rises) / len(rises), sum(falls) / len(falls)
    p = max(sign_flip(rises), sign_flip(falls))
    measured = (
        f"{rise:+.1f} neurons a layer from below to the peak band, {-fall:+.1f} from it to the"
        f" last layers, p = {p:.3g} over {len(rises)} languages"
    )
    if chance is not None:
        measured += f"; labels shuffled {chance[0]:+.1f} and {-chance[1]:+.1f}"
    if rise <= 0 or fall <= 0:
        return "does not hold", measured
    beyond = chance is not None and rise > chance[0] and fall > chance[1]
    return ("holds" if p <= ALPHA and beyond else "unclear"), measured

"""Whether languages with more safety neurons are attacked less often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from precise_shield.analyse.permutation import correlation
from precise_shield.core.rates import or_null
from precise_shield.core.records import Modality
from precise_shield.core.summary.explained import CountTest

Among = Literal["all", "other"]


def count_tests(
    sizes: Mapping[tuple[str, Modality], int],
    attack_success: Mapping[tuple[str, Modality], float],
    tokens: Mapping[tuple[str, Modality], float],
    high_resource: Iterable[str],
    *,
    draws: int = 9999,
    seed: int = 0,
) -> list[CountTest]:
    """Correlate neuron count with attack success over languages, modality by modality.

    Each modality is tested among all languages and among those that are not high-resource, with
    and without the tokens of an item partialled out: few resources may raise both.

    Args:
        sizes: neurons of each language and modality.
        attack_success: share in [0, 1]; a place without a scored answer is absent.
        tokens: mean tokens of an item; a place without probing prompts is absent.
        high_resource: languages that the second test leaves out.
        draws: random orders where there are too many languages to count them all.
        seed: of the random orders.

    Source: Precise Shield (arXiv 2604.08881), section 4 (r = -0.81 for image-dominant and -0.70
        for text-dominant risk); the test and the partial correlation are ours.
    """
    high = set(high_resource)
    tests = []
    for modality in sorted({modality for _, modality in sizes}):
        for among in _AMONG:
            languages = sorted(
                la
                for la, where in sizes
                if where == modality and (among == "all" or la not in high)
            )
            kept = [
                la for la in languages if (la, modality) in attack_success.keys() & tokens.keys()
            ]
            test = _tested(modality, among, kept, (sizes, attack_success, tokens), draws, seed)
            left_out = [la for la in languages if la not in kept]
            tests.append(test.model_copy(update={"left_out": left_out}))
    return tests


_AMONG: tuple[Among, ...] = ("all", "other")


def _tested(
    modality: Modality,
    among: Among,
    languages: list[str],
    tables: tuple[Mapping[tuple[str, Modality], int | float], ...],
    draws: int,
    seed: int,
) -> CountTest:
    counts, hits, lengths = ([table[la, modality] for la in languages] for table in tables)
    plain = correlation(counts, hits, draws=draws, seed=seed)
    partial = correlation(counts, hits, lengths, draws=draws, seed=seed)
    return CountTest(
        modality=modality,
        among=among,
        languages=languages,
        counts=[int(value) for value in counts],
        attack_success=hits,
        tokens=[round(value, 3) for value in lengths],
        r=or_null(plain.r),
        low=or_null(plain.low),
        high=or_null(plain.high),
        p_value=or_null(plain.p_value),
        partial_r=or_null(partial.r),
        partial_p=or_null(partial.p_value),
        permutations=plain.permutations,
        exact=plain.exact,
    )

"""Requests that occur in two splits, word for word or nearly so.

What a test asks must not have been probed or trained on. Groups keep translations together; this
finds the same words under two groups, as when one public set is built from another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from zlib import crc32

import numpy as np

from precise_shield.core.records import SPLITS, Example, Split
from precise_shield.core.summary import OverlapCount
from precise_shield.data.contrast import picture_hash
from precise_shield.data.text import scripts, squash

NEAR = 0.8
"""Default Jaccard similarity of character n-grams from which two texts count as nearly the same."""

_BANDS, _ROWS = 16, 4
_BUCKET, _VERIFIED = 64, 32
_DENSE = frozenset({"CJK", "HIRAGANA", "KATAKANA", "HANGUL"})
_RANDOM = np.random.default_rng(20_260_124)
_ODD = np.uint64(1)
_FACTORS = _RANDOM.integers(0, 2**63, (_BANDS * _ROWS, 1), dtype=np.uint64) << _ODD | _ODD
_OFFSETS = _RANDOM.integers(0, 2**63, (_BANDS * _ROWS, 1), dtype=np.uint64)


@dataclass(frozen=True)
class Overlap:
    """Two examples in different splits that ask the same."""

    first: str
    second: str
    """Ids."""

    earlier: Split
    later: Split

    similarity: float
    """1.0 when their squashed texts, or their pictures' bytes, are equal."""


def request_key(example: Example) -> str:
    """Say what an example asks, such that examples asking the same have equal keys.

    Where only the picture says it, it is the picture's bytes, else the squashed request.

    Raises:
        DataError: a picture cannot be read.
    """
    told = example.request is not None or example.modality != "image_dominant"
    if not told and example.image is not None:
        return f"picture {picture_hash(example.image)}"
    return f"prompt {squash(example.asked) or example.asked}"


def ngrams(text: str) -> frozenset[str]:
    """Cut a squashed text into its character n-grams: pairs in dense scripts, else fours."""
    found = scripts(text)
    dense = sum(found[name] for name in _DENSE) * 2 > sum(found.values())
    size = 2 if dense else 4
    return frozenset(text[at : at + size] for at in range(max(1, len(text) - size + 1)))


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard similarity of two sets of n-grams, in [0, 1]."""
    return len(a & b) / len(a | b)


class _Index:
    """The requests of one split, found again by their words.

    Near ones are found by MinHash with banding: a pair of Jaccard 0.8 shares one of 16 bands of 4
    with probability 0.9998. Candidates are verified on the n-grams themselves, so a hit is never
    an accident of hashing. In corpora of templates buckets are cut at 64 members and 32
    candidates are verified, so that cost stays linear in the number of rows.

    Source: Broder (1997), "On the resemblance and containment of documents".
    """

    def __init__(self) -> None:
        self.exact: dict[str, str] = {}
        self.grams: list[tuple[str, frozenset[str]]] = []
        self.buckets: defaultdict[tuple[str, int, bytes], list[int]] = defaultdict(list)

    def add(self, asked: _Asked) -> None:
        if asked.key in self.exact:
            return
        self.exact[asked.key] = asked.id
        if asked.grams is not None:
            for bucket in asked.bands:
                if len(self.buckets[bucket]) < _BUCKET:
                    self.buckets[bucket].append(len(self.grams))
            self.grams.append((asked.id, asked.grams))

    def find(self, asked: _Asked, threshold: float) -> tuple[str, float] | None:
        """The request that asks the same, or the most similar above the threshold."""
        if asked.key in self.exact:
            return self.exact[asked.key], 1.0
        if asked.grams is None or threshold >= 1:
            return None
        seen = Counter(at for band in asked.bands for at in self.buckets.get(band, ()))
        best: tuple[str, float] | None = None
        for at, _ in seen.most_common(_VERIFIED):
            name, grams = self.grams[at]
            value = similarity(asked.grams, grams)
            if value >= threshold and (best is None or value > best[1]):
                best = name, value
        return best


@dataclass(frozen=True)
class _Asked:
    id: str
    key: str
    grams: frozenset[str] | None
    bands: tuple[tuple[str, int, bytes], ...]


def _asked(example: Example, near: bool) -> _Asked:
    key = request_key(example)
    if not near or not key.startswith("prompt "):
        return _Asked(example.id, key, None, ())
    grams = ngrams(key.removeprefix("prompt "))
    hashes = np.array([crc32(gram.encode()) for gram in grams], dtype=np.uint64)
    signature = ((_FACTORS * hashes + _OFFSETS) >> np.uint64(32)).min(axis=1)
    parts = signature.reshape(_BANDS, _ROWS)
    bands = tuple((example.language, at, part.tobytes()) for at, part in enumerate(parts))
    return _Asked(example.id, key, grams, bands)


def find_overlaps(examples: Sequence[Example], threshold: float = NEAR) -> list[Overlap]:
    """Find the examples that ask what one of an earlier split asks; splits are in their order.

    Same words count in any language, similar ones (`threshold` of their n-grams) within one. Each
    example is named at most once for each earlier split. A threshold of 1 finds exact ones only.
    Pictures that carry the risk are compared by their bytes, so a re-encoded one is not found.

    Raises:
        DataError: a picture cannot be read.
    """
    parts = {split: [_asked(row, threshold < 1) for row in examples if row.split == split]
             for split in SPLITS}  # fmt: skip
    indices: dict[Split, _Index] = {}
    for split, rows in parts.items():
        indices[split] = _Index()
        for row in rows:
            indices[split].add(row)
    return [
        Overlap(hit[0], row.id, earlier, later, hit[1])
        for earlier, later in combinations(SPLITS, 2)
        for row in parts[later]
        if (hit := indices[earlier].find(row, threshold)) is not None
    ]


def counted(overlaps: Iterable[Overlap], examples: Iterable[Example]) -> list[OverlapCount]:
    """Count overlaps by pair of splits, with up to three pairs of ids each."""
    sizes = Counter(row.split for row in examples)
    pairs: defaultdict[tuple[Split, Split], list[Overlap]] = defaultdict(list)
    for each in overlaps:
        pairs[each.earlier, each.later].append(each)
    return [
        OverlapCount(
            earlier=earlier,
            later=later,
            exact=sum(each.similarity == 1 for each in found),
            near=sum(each.similarity < 1 for each in found),
            of=sizes[later],
            pairs=[(each.first, each.second) for each in found[:3]],
        )
        for (earlier, later), found in sorted(
            pairs.items(), key=lambda item: [SPLITS.index(split) for split in item[0]]
        )
    ]


def sentence(count: OverlapCount) -> str:
    """Say one pair of splits' overlap for a warning."""
    first, second = count.pairs[0]
    return (
        f"{count.exact + count.near} of {count.of} {count.later} requests are in {count.earlier}"
        f" too: {count.exact} word for word, {count.near} nearly, e.g. {second} and {first}"
    )

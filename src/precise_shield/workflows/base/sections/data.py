"""Which data, and what is kept of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from precise_shield.core.records import Modality
from precise_shield.workflows.base.sections.base import Section


class SourceSection(Section):
    source: str
    """Name of a dataset loader; `precise-shield list` shows them."""

    path: str | None = None
    """File or folder of the dataset, where the loader reads one."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the loader."""

    limit: int | None = Field(default=None, gt=0)
    """Keep at most this many groups of each split and harm."""


class TransformSection(Section):
    name: str
    """Which transform; `precise-shield list` shows them."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the transform, e.g. `splits: [test]`."""


class DataSection(Section):
    sources: list[SourceSection] = Field(min_length=1)
    """Datasets, read in this order."""

    transforms: list[TransformSection] = []
    """Attacks as fixed rewritings of what was read, one after the other."""

    languages: list[str] | None = None
    """Keep only these languages; null keeps all."""

    modalities: list[Modality] | None = None
    """Keep only these modalities; null keeps all."""

    on_bad_row: Literal["stop", "skip"] = "stop"
    """What a malformed row does; skipped rows are counted in the report."""

    benign_targets: Literal["given", "self_where_missing", "self", "opener"] = "self_where_missing"
    """Answers of benign rows. `given`: those of the data; a probing or training row without one is
    refused. `self_where_missing`: the model's own where the data bring none. `self`: training rows
    have the model's own in the place of given ones too, so that training teaches nothing new about
    benign requests. `opener`: a neutral opener of about three tokens where the data bring none."""

    overlap_threshold: float = Field(default=0.8, gt=0, le=1)
    """Similarity (Jaccard, character n-grams) from which requests in two splits are reported as
    nearly the same; 1 reports only those that are word for word."""

    benign_tokens: int = Field(default=48, gt=0)
    """Longest own answer."""

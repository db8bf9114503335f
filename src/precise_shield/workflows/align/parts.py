"""Trainings on a part of the data: which ones, and what each has seen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from precise_shield.core.errors import ConfigError
from precise_shield.core.records import MODALITIES, Example
from precise_shield.core.summary import TrainedOn, TransferAxis
from precise_shield.evaluate.counting.transfer import AXES, VALUE_OF
from precise_shield.workflows.base.context import Run, wanted
from precise_shield.workflows.base.sections.align import TransferSection, ZeroShotSection


def trained_on(rows: Iterable[Example], every: Iterable[Example]) -> list[TrainedOn]:
    """What the harmful `rows` of an arm hold of what `every` training row holds, axis by axis.

    An axis along which nothing is left out is not named.
    """
    harmful = [row for row in rows if row.harm == "harmful"]
    among = [row for row in every if row.harm == "harmful"]
    found = []
    for axis in AXES:
        seen = {value for row in harmful if (value := VALUE_OF[axis](row)) is not None}
        there = {value for row in among if (value := VALUE_OF[axis](row)) is not None}
        if there - seen:
            found.append(TrainedOn(axis=axis, seen=sorted(seen), unseen=sorted(there - seen)))
    return found


def parts_of(run: Run) -> list[ZeroShotSection]:
    """Every training on a part of the data: those that are listed, then those of the matrices.

    Raises:
        ConfigError: a matrix names a source that no training row is in, or has a single one.
    """
    parts = list(run.config.align.zero_shot)
    for section in run.config.align.transfer:
        parts += _expanded(run, section)
    for axis in run.config.align.leave_out:
        parts += _left_out(run, axis)
    names = [part.name for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two trainings on a part of the data are named {twice[0]!r}.")
    return parts


def _left_out(run: Run, axis: TransferAxis) -> list[ZeroShotSection]:
    align = run.config.align
    rows = [
        row
        for row in run.data.examples
        if row.split in align.splits
        and row.harm == "harmful"
        and wanted(row, align.languages, align.modalities)
    ]
    there = sorted({value for row in rows if (value := VALUE_OF[axis](row)) is not None})
    if len(there) < 2:
        raise ConfigError(
            f"align.leave_out by {axis}: harmful training rows have {there or 'no ' + axis}, so"
            " nothing is left once one is out."
        )
    parts = []
    for value in there:
        rest = [other for other in there if other != value]
        cut: dict[str, object] = {"without_categories": [value], "languages": align.languages}
        if axis == "language":
            cut = {"languages": rest, "sets_of": rest}
        name = without(value)
        cut |= {"modalities": align.modalities}
        parts.append(ZeroShotSection.model_validate({"name": name, **cut}))
    return parts


def without(value: str) -> str:
    """Name of the training that left a language or category out."""
    return f"without-{re.sub(r'[^a-z0-9]+', '-', value.lower()).strip('-')}"


def _expanded(run: Run, section: TransferSection) -> list[ZeroShotSection]:
    align = run.config.align
    rows = [
        row
        for row in run.data.examples
        if row.split in align.splits and wanted(row, align.languages, align.modalities)
    ]
    there = {str(VALUE_OF[section.by](row)) for row in rows if row.harm == "harmful"}
    order = [m for m in MODALITIES if m in there] if section.by == "modality" else sorted(there)
    sources = order if section.sources is None else section.sources
    if unknown := [each for each in sources if each not in there]:
        raise ConfigError(
            f"align.transfer: no training row is in {section.by} {unknown[0]!r}; there are {order}."
        )
    if len(there) < 2:
        raise ConfigError(
            f"align.transfer by {section.by}: all training rows are in {order}, so nothing is left"
            " to transfer to."
        )
    return [_part(section, source, align.modalities, align.languages, rows) for source in sources]


def _part(
    section: TransferSection,
    source: str,
    modalities: Sequence[str] | None,
    languages: Sequence[str] | None,
    rows: Sequence[Example],
) -> ZeroShotSection:
    own = f"MS:{source}"
    cut: dict[str, object] = {"languages": [source], "modalities": modalities}
    if section.by == "modality":
        spoken = sorted({row.language for row in rows if row.modality == source})
        own = " | ".join(f"{language}/{source}" for language in spoken)
        cut = {"languages": languages, "modalities": [source]}
    chosen = own if section.chosen == "own" else section.chosen.replace("{source}", source)
    name = f"from-{source.replace('_', '-')}"
    return ZeroShotSection.model_validate({"name": name, "chosen": chosen, **cut})

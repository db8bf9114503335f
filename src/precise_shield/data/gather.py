"""What every source of examples shares: its options, and how rows become examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from precise_shield.core.errors import DataError
from precise_shield.core.images import peek_image
from precise_shield.core.records import Example, Harm, Modality, Split
from precise_shield.core.registry import Registry
from precise_shield.data.contrast import share_of, split_of
from precise_shield.data.manifest import Loaded, OnBadRow, Problem, finish


class SourceOptions(BaseModel):
    """What to take of a data set, and where it goes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    """The data set's file or folder."""

    split: Split | None = None
    """Put every row into this split; None keeps the source's own default."""

    fractions: dict[Split, float] | None = None
    """Deal groups to splits by hash, in these shares, which sum to 1."""

    splits: tuple[Split, ...] = ()
    """Keep only what these splits got, after the dealing; empty keeps all."""

    languages: tuple[str, ...] = ()
    """Take only these; empty takes all there are."""

    parts: tuple[str, ...] = ()
    """Take only these published parts, e.g. `train`; empty takes all there are."""

    harm: Harm | None = None
    """Take only harmful or only benign rows."""

    limit: int | None = Field(default=None, ge=1)
    """At most so many groups of each split and harm, the same ones in every language."""

    columns: dict[str, str] = Field(default_factory=dict)
    """For `hub`: which column, or which constant written `=constant`, gives a manifest field."""

    subset: str | None = None
    """For `hub`: name of the published configuration."""

    revision: str | None = None
    """For `hub`: commit or tag of the data set."""

    seed: int = 0
    """Of the dealing by `fractions`."""

    on_bad_row: OnBadRow = "stop"


DataSource = Callable[[SourceOptions], Loaded]
SOURCES: Registry[DataSource] = Registry("data source")


class Gather:
    """Collects a source's rows under its options."""

    def __init__(self, options: SourceOptions, name: str) -> None:
        self.options = options
        self.name = name
        self.examples: list[Example] = []
        self.problems: list[Problem] = []
        self.languages: set[str] = set()
        self.ids: set[str] = set()

    def wants(self, language: str) -> bool:
        """Note that there is a language, and say whether its rows are asked for."""
        self.languages.add(language)
        return not self.options.languages or language in self.options.languages

    def add(
        self,
        key: str,
        language: str,
        harm: Harm,
        prompt: str,
        default: Split | Mapping[Split, float],
        row: int | None = None,
        deal_by: str = "",
        *,
        variant: str = "",
        family: str = "",
        image: Path | None = None,
        modality: Modality = "text",
        **more: Any,
    ) -> None:
        """Add a row; `key` is its request's name in the data set, `default` its split.

        Rows of one key are one group; `variant` tells renderings of it apart. `family` is the data
        set that names the request, where another one took it from there.
        """
        options = self.options
        if not self.wants(language) or options.harm not in (None, harm):
            return
        if not prompt.strip():
            self.problems.append(Problem(row, f"the {language} prompt is blank"))
            return
        group = f"{family or self.name}:{key}"
        name = ":".join(part for part in (self.name, key, variant, language) if part)
        if name in self.ids:
            self.problems.append(Problem(row, f"{key!r} in {language} is given twice"))
            return
        if image is not None and (problem := _unusable(image)):
            self.problems.append(Problem(row, problem))
            return
        self.ids.add(name)
        split = default if options.fractions is None else options.fractions
        split = options.split or split
        if not isinstance(split, str):
            split = split_of(f"{self.name}:{deal_by}" if deal_by else group, split, options.seed)
        if options.splits and split not in options.splits:
            return
        self.examples.append(
            Example(
                id=name,
                language=language,
                modality=modality,
                image=None if image is None else str(image.resolve()),
                harm=harm,
                prompt=prompt.strip(),
                split=split,
                group=group,
                source=self.name,
                **more,
            )
        )

    def parts(self, known: Iterable[str], default: Iterable[str] | None = None) -> list[str]:
        """The published parts that are asked for, of those that are there.

        Raises:
            DataError: a part that is asked for is not there.
        """
        there = sorted(known)
        if unknown := sorted(set(self.options.parts) - set(there)):
            raise DataError(
                f"no part {', '.join(unknown)} in {self.options.path}; there are {there}"
            )
        wanted = set(self.options.parts or (there if default is None else default))
        return [part for part in there if part in wanted]

    def done(self) -> Loaded:
        """Give what was collected; the errors are those of `load_source`."""
        must_have(self.options, self.languages, self.name)
        kept = limited(self.examples, self.options.limit)
        # One problem is one example, while several files and languages share row numbers.
        each = [replace(problem, place=str(at)) for at, problem in enumerate(self.problems)]
        return finish(self.options.path, kept, each, self.options.on_bad_row)


def _unusable(image: Path) -> str | None:
    try:
        peek_image(image)
    except DataError as error:
        return str(error)
    return None


def must_have(options: SourceOptions, there: set[str], name: str) -> None:
    """Raise a DataError if a language that is asked for is not `there`."""
    if missing := sorted(set(options.languages) - there):
        raise DataError(
            f"{name} at {options.path} has no {', '.join(missing)}; it has"
            f" {', '.join(sorted(there))}."
        )


def limited(examples: list[Example], limit: int | None) -> list[Example]:
    """Keep at most `limit` groups of each split and harm, chosen by hash, hence parallel."""
    if limit is None:
        return examples
    groups: defaultdict[tuple[Split, Harm], set[str]] = defaultdict(set)
    for row in examples:
        groups[row.split, row.harm].add(row.group)
    kept = {
        group
        for members in groups.values()
        for group in sorted(members, key=lambda name: share_of(name, "limit"))[:limit]
    }
    return [row for row in examples if row.group in kept]

"""What every stage of a run shares: configuration, model, data, and where artefacts go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from precise_shield import __version__
from precise_shield.core.errors import ConfigError, DataError, EmptyCellError
from precise_shield.core.parallel import crew
from precise_shield.core.records import Example, Modality, Response, Split
from precise_shield.core.store import RunStore, Stage, digest
from precise_shield.core.summary import OverlapCount, StageCost
from precise_shield.data.contrast import check_splits, fingerprint
from precise_shield.data.manifest import Loaded, Problem
from precise_shield.data.overlap import counted, find_overlaps, sentence
from precise_shield.data.refusals import with_targets
from precise_shield.data.sources import SourceOptions, load_source
from precise_shield.models.architecture.bind import BoundModel, bind
from precise_shield.models.architecture.pictures import reaching
from precise_shield.models.loading.model import LoadedModel, load
from precise_shield.workflows.base.config import Config
from precise_shield.workflows.base.dressing import apply_transform
from precise_shield.workflows.base.embedded import EMBEDDED, spec_of
from precise_shield.workflows.base.progress import Reporter
from precise_shield.workflows.base.sections.data import SourceSection
from precise_shield.workflows.base.together import By, answered, making

SELF = ("self", "self_where_missing")
"""Values of `data.benign_targets` with which the model itself fills gaps."""


@dataclass
class Run:
    """One configuration at work in one folder."""

    config: Config
    folder: Path
    reporter: Reporter = field(default_factory=Reporter)
    costs: list[StageCost] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    under_way: list[Stage] = field(default_factory=list)
    """Stages that are being made, the outermost first; what is warned of is kept with each."""

    overlaps: list[OverlapCount] = field(default_factory=list)
    """Requests that are in two splits; known once `data` was read."""
    dropped_rows: int = 0
    """Rows of all sources that were left out by `data.on_bad_row: skip`."""

    memo: dict[str, Any] = field(default_factory=dict)
    """What was settled or read once and is asked for again; shared by copies of the run."""

    @property
    def store(self) -> RunStore:
        """The stages in the run's folder."""
        return RunStore(self.folder)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model and its tokenizer or processor; loaded on first use."""
        self.reporter.say(f"loading {self.config.model.path}")
        if self.config.model.threads is not None:
            torch.set_num_threads(self.config.model.threads)
        return load(spec_of(self.config.model))

    @cached_property
    def bound(self) -> BoundModel:
        """The model and the sites to search, as `identify.towers` and `identify.units` say."""
        section = self.config.identify
        bound = bind(self.loaded.model, section.towers, section.units)
        return bound.only(reaching(bound))

    @cached_property
    def data(self) -> Loaded:
        """All examples of all sources, filtered as configured, with refusal targets filled in.

        Raises:
            DataError: a row breaks the format, or a group crosses splits.
            EmptyCellError: nothing is left.
        """
        section = self.config.data
        examples: list[Example] = []
        dropped: list[Problem] = []
        for source in section.sources:
            loaded = load_source(source.source, self._options(source))
            examples += loaded.examples
            dropped += loaded.dropped
            self.dropped_rows += loaded.dropped_rows
        kept = [e for e in examples if wanted(e, section.languages, section.modalities)]
        if not kept:
            raise EmptyCellError(
                f"none of {len(examples)} examples is in languages {section.languages} and"
                f" modalities {section.modalities}; widen data.languages or data.modalities."
            )
        kept = self._transformed(kept, dropped)
        check_splits(kept)
        self.overlaps = counted(find_overlaps(kept, section.overlap_threshold), kept)
        for overlap in self.overlaps:
            self.warn(sentence(overlap))
        openers = section.benign_targets == "opener"
        return Loaded(with_targets(kept, benign_openers=openers), dropped)

    def _transformed(self, rows: list[Example], dropped: list[Problem]) -> list[Example]:
        for part in self.config.data.transforms:
            folder = self.folder / "data" / "transforms"
            loaded = apply_transform(
                part.name, rows, part.options, folder, self.config.data.on_bad_row
            )
            rows = loaded.examples
            dropped += loaded.dropped
            self.dropped_rows += loaded.dropped_rows
        return rows

    def _options(self, source: SourceSection) -> SourceOptions:
        if source.path is None and source.source not in EMBEDDED:
            raise ConfigError(f"source {source.source!r} needs a path: its file or folder.")
        path = self.folder / "data" / source.source if source.path is None else Path(source.path)
        try:
            return SourceOptions(
                path=path,
                on_bad_row=self.config.data.on_bad_row,
                **{"limit": source.limit, **source.options},
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"source {source.source!r}, option {'.'.join(map(str, first['loc']))}:"
                f" {first['msg'].lower()}."
            ) from error

    def examples(self, *splits: Split) -> list[Example]:
        """The examples of some splits; benign probing and training rows have a target.

        Raises:
            EmptyCellError: there are none.
        """
        rows = [example for example in self.data.examples if example.split in splits]
        if not rows:
            raise EmptyCellError(
                f"no examples in split {' or '.join(splits)}; give a source that has them."
            )
        lacking = [row for row in rows if row.target is None and row.split in {"probe", "train"}]
        if not lacking:
            return rows
        if self.config.data.benign_targets not in SELF:
            raise DataError(
                f"{len(lacking)} probing or training rows have no target, the first"
                f" {lacking[0].id}; set data.benign_targets to"
                " self_where_missing or opener."
            )
        said = self.own_answers(lacking)
        return [replace(row, target=said[row.id]) if row.id in said else row for row in rows]

    def own_answers(self, rows: list[Example]) -> dict[str, str]:
        """What the model as it came answers: the benign arm of data that bring no answers."""
        answers = self.own_words("own-answers", rows, f"own answers to {len(rows)} benign prompts")
        silent = [key for key, text in answers.items() if not text.strip()]
        if silent:
            raise DataError(
                f"the model gave an empty answer to {len(silent)} benign prompts, the first"
                f" {silent[0]}; bring targets, or set data.benign_targets to opener."
            )
        return answers

    def own_words(self, name: str, rows: Sequence[Example], what: str) -> dict[str, str]:
        """Beginnings of the untouched model's answers by prompt, in a stage of that name."""
        limit = self.config.data.benign_tokens
        stage = self.store.stage(name, self.made_by(rows, limit=limit))
        with self.working(stage, what, by="all") as todo:
            if todo:
                with self.reporter.bar(name.replace("-", " "), len(rows)) as advance:
                    said = answered(
                        self.loaded,
                        rows,
                        condition="base",
                        max_new_tokens=limit,
                        batch_size=self.config.evaluate.batch_size,
                        on_batch=lambda part: advance(len(part)),
                    )
                if crew().leads:
                    stage.write_table("responses.jsonl", said)
        return {each.example: each.text for each in stage.read_table("responses.jsonl", Response)}

    @property
    def sharded(self) -> bool:
        """Every process holds a share of each block, so that none runs the model alone."""
        return self.config.model.shard == "fsdp"

    def write_text(self, name: str, text: str) -> None:
        """Write a file at the top of the run folder; it is there for all processes afterwards."""
        if crew().leads:
            self.store.write_text(name, text)
        crew().wait()

    def assemble(self) -> None:
        """Among several processes: read the data in all of them, the leading one first.

        What is fetched or written on the way is then there for the others, and no process comes
        to it alone later.
        """
        if crew().size > 1 and self.config.identify.from_stats is None:
            with crew().leader_first():
                self.reporter.say(f"{len(self.data.examples)} examples")

    def made_by(self, examples: Iterable[Example], **more: Any) -> dict[str, Any]:
        """The part of a stage's key that every stage on a model and data has."""
        return {
            "version": __version__,
            "model": self.loaded.fingerprint,
            "dtype": str(self.loaded.model.dtype),
            "template": digest(self.loaded.template),
            "reading": self.loaded.reading,
            "data": fingerprint(list(examples)),
            "seed": self.config.seed,
            **more,
        }

    def warn(self, words: str) -> None:
        """Tell the user, once a run; a stage that is taken up again tells what it told."""
        for known in (self.warnings, *(stage.warnings for stage in self.under_way)):
            if words not in known:
                known.append(words)

    @contextmanager
    def working(self, stage: Stage, what: str, by: By = "model") -> Iterator[bool]:
        """Say what happens, and yield whether there is anything to do.

        Among several processes the stage is there for all of them when the block is over.
        """
        seen = any(cost.stage == what for cost in self.costs)
        if crew().as_leader(stage.done):
            if not seen:
                self.reporter.say(f"{what}: already there ({stage.key})")
            yield False
        else:
            self.reporter.say(what)
            with making(stage, by, sharded=self.sharded) as works:
                self.under_way.append(stage)
                try:
                    yield works
                finally:
                    self.under_way.remove(stage)
        record = stage.record()
        for words in record.warnings:
            self.warn(words)
        if seen:
            return
        self.costs.append(
            StageCost(
                stage=what,
                seconds=record.seconds,
                peak_memory_mb=record.peak_memory_mb,
                reused=stage.reused,
            )
        )


def wanted(
    example: Example, languages: list[str] | None, modalities: list[Modality] | None
) -> bool:
    """Whether an example is in the named languages and modalities; None is all."""
    return (languages is None or example.language in languages) and (
        modalities is None or example.modality in modalities
    )


def started(config: Config, out: Path | None, *, quiet: bool = False) -> Run:
    """Open a run's folder: `--out`, or `runs/<name>`.

    Raises:
        ConfigError: the name cannot be a folder.
    """
    if out is None and (not config.name or "/" in config.name or config.name.startswith(".")):
        raise ConfigError(f"name {config.name!r} cannot be a folder; use letters, digits and '-'.")
    run = Run(config, out or Path("runs") / config.name, Reporter(quiet=quiet or not crew().leads))
    run.assemble()
    return run

"""What the frozen part of a training gives: computed afresh, or once a row and taken up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from precise_shield.align.delta import Deltas
from precise_shield.align.losses import TrainBatch, answers, benign_logits, said_at
from precise_shield.align.preference import row_logprobs
from precise_shield.align.shelf import DiskShelf, MemoryShelf, Shelf
from precise_shield.align.spec import FitSpec
from precise_shield.core.errors import ConfigError, UnsupportedModelError
from precise_shield.core.parallel import Crew
from precise_shield.models.holding.held import is_sharded
from precise_shield.models.passes.frozen import (
    PIXELS,
    Entrance,
    arrival,
    entered,
    first_block,
    pieces,
    require_fixed,
    sees,
)
from precise_shield.models.readings.head import head, hidden_states

Note = Callable[[str], None]
"""Told in a sentence what is kept, where and how large, before training starts."""


@dataclass(frozen=True)
class CacheSpec:
    """Where to keep what the frozen part gives, and how much of it at most."""

    folder: Path | None = None
    """A folder of one's own for a model and its rows in their order; None keeps it in memory."""

    made_by: str = ""
    """Digest of the model and rows, for a folder; files made by something else are refused."""

    limit: int = 4 * 2**30
    """Most bytes; what would be more is refused before anything is trained."""

    def holds(self, size: int | float) -> bool:
        """Whether so many bytes are within the limit."""
        return size <= self.limit

    def pays(self, spec: FitSpec, passes: int) -> bool:
        """Whether what is kept is taken up again: in a later epoch, or by another training.

        `passes`: forward passes an epoch.
        """
        return self.folder is not None or spec.total_steps(passes) > spec.steps_an_epoch(passes)


class Frozen:
    """Everything computed afresh in every pass."""

    def __init__(self, deltas: Deltas) -> None:
        self.deltas, self.bound = deltas, deltas.bound
        self.together = is_sharded(self.bound.model)
        """Processes hold shares of the model, so that all of them run it equally often."""
        self.runs_base = self.together
        """The base model has to be asked for every batch, benign rows or not."""

    def fill(self, items: Sequence[TrainBatch]) -> None:
        """Get ready, from the batches of the first epoch."""

    @contextmanager
    def under(self, batch: TrainBatch) -> Iterator[TrainBatch]:
        """Inside, the model may be run on what is yielded for the same result as on `batch`."""
        yield batch

    def benign_logits(self, batch: TrainBatch) -> Tensor:
        """The base model's logits at the answers of benign rows, `[tokens, vocab]`."""
        with self.deltas.off():
            return benign_logits(self.bound, batch)

    def logprobs(self, batch: TrainBatch) -> Tensor:
        """The base model's log-probability of each row's answer, `[batch]`."""
        with torch.no_grad(), self.deltas.off():
            return row_logprobs(answers(self.bound, batch), batch)


class _Row(NamedTuple):
    """One row of a batch."""

    key: str
    picture: str
    real: Tensor
    """`[pos]`, False at padding."""


class Kept(Frozen):
    """Computed once, in the batches of the first epoch, and taken up again in every pass.

    What is kept, by row: the hidden state that enters the lowest trained block, without padding;
    where that is block 0, what each picture gave, once a picture. Then what the base model has at
    the answers of benign rows (with a KL term), or its log-probability of each answer (DPO). Rows
    are known by their tokens and pictures. Everything is made before the first step from the
    first epoch's batches, so a run that breaks off and goes on finds the same.

    Processes make a share of the batches each and hand on what they made, for rows that a process
    met in one epoch are another's in the next; in a folder they keep it once. Where they share the
    model, each makes everything, and block by block they meet in every pass.

    Raises:
        ConfigError: the model draws at random, or what is below the blocks is trained itself.
        StoreError: the folder belongs to other rows or another model.
    """

    def __init__(
        self, deltas: Deltas, spec: FitSpec, cache: CacheSpec, crew: Crew, note: Note
    ) -> None:
        super().__init__(deltas)
        self.runs_base = False
        self.cache, self.crew, self.note = cache, crew, note
        require_fixed(self.bound)
        self.layer = first_block(self.bound, deltas.trained_modules())
        self.enters = self.layer > 0 or sees(self.bound)
        self.pairs, self.drifts = spec.objective == "dpo", spec.kl_weight > 0
        self.entrances = self._shelf(f"block-{self.layer:03d}")
        self.base = self._shelf("-".join(["base", *self._asked()]))
        self.checked: set[bool] = set()  # batches with pictures, and those without
        self.share = Crew() if self.together else crew
        """Those among whom the batches are shared out."""
        self.writes = crew.leads or cache.folder is None or not self.together

    def _asked(self) -> list[str]:
        """What the base model is asked for."""
        return ["pairs"] * self.pairs + ["benign"] * (self.drifts or not self.pairs)

    def _shelf(self, name: str) -> Shelf:
        if self.cache.folder is None:
            return MemoryShelf()
        return DiskShelf(self.cache.folder / name, f"{self.cache.made_by}/{name}")

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self.entrances.size + self.base.size

    def fill(self, items: Sequence[TrainBatch]) -> None:
        """Compute what is not there yet, saying beforehand how much it will be.

        Raises:
            ConfigError: it is more than the limit, or a batch does not name its pictures.
            UnsupportedModelError: entered at a block, the family ends elsewhere than by itself.
        """
        if not (self.enters or self.pairs or self.drifts):
            self.note("cache: nothing to keep, for block 0 is trained and there are no pictures")
            return
        share, asked = self.share, self.pairs or self.drifts
        lacking = {
            number: (not self.entrances.has(number), asked and not self.base.has(number))
            for number in range(len(items))[share.rank :: share.size]
        }
        self.crew.wait()  # nobody writes before all have looked
        stated = False
        for number, parts in lacking.items():
            before = self.size
            self._put(number, items, parts)
            if self.size > before and not stated:
                stated = True
                self._state((self.size - before) * len(items))
            self._require(self.size, "it holds")
        self._meet()
        self._require(self.size, "it holds")
        if not stated:
            self.note(f"cache: {_mib(self.size)} taken up again")

    def _meet(self) -> None:
        """See what all processes have put on the shelves."""
        self.crew.wait()
        for shelf in (self.entrances, self.base):
            shelf.reload(self.share)

    def _state(self, expected: int) -> None:
        kept = [f"states that enter block {self.layer}"] if self.layer else []
        kept += ["what pictures give"] if self.enters and not self.layer else []
        kept += ["the base model's answers"] if self.pairs or self.drifts else []
        size, where = f"about {_mib(expected)}", "in memory"
        if not self.layer and self.enters:
            size = f"at most {_mib(expected)}"  # pictures that rows share are kept once
        else:
            self._require(expected, "it would take about")
        if self.cache.folder is not None:
            where = f"under {self.cache.folder}"
        limit = _mib(self.cache.limit)
        self.note(f"cache: {' and '.join(kept)}, {size} {where} (limit {limit})")

    def _require(self, size: int, what: str) -> None:
        if not self.cache.holds(size):
            raise ConfigError(
                f"cache: {what} {_mib(size)} and the limit is {_mib(self.cache.limit)}; nothing"
                " was trained. Raise align.cache.limit_mb, or set align.cache.where to disk or off."
            )

    def _put(self, number: int, items: Sequence[TrainBatch], lacking: tuple[bool, bool]) -> None:
        if not any(lacking) and (len(self.checked) == 2 or not self.enters):
            return
        batch = items[number].to(self.bound.device)
        with_base = self.pairs or (self.drifts and bool(batch.benign.any()))
        enters = self._enters(batch)
        check = enters and (PIXELS[0] in batch.inputs) not in self.checked
        if not (any(lacking) or check):
            return
        if not (enters or with_base):
            entrance = final = None
        else:
            through = with_base or check or self.together  # a block that is cut short stays whole
            with self.deltas.off():
                entrance, final = arrival(self.bound, batch.inputs, self.layer, through=through)
        rows = self._rows(batch)
        if lacking[0] and self.writes:
            self.entrances.put(number, self._split(batch, rows, entrance) if enters else {})
        if lacking[1] and self.writes:
            self.base.put(number, self._base(batch, rows, final) if with_base else {})
        if check:
            self._check(batch, final)

    def _check(self, batch: TrainBatch, final: Tensor | None) -> None:
        """Enter at the block with what was kept, and end where the model itself ends."""
        if self.together:
            self._meet()
        with torch.no_grad(), self.deltas.off(), self.under(batch) as lean:
            again = hidden_states(self.bound, lean.inputs)
        assert final is not None
        real = torch.stack([row.real for row in self._rows(batch)])
        gap = float((again - final)[real].abs().max())
        step = torch.finfo(final.dtype).eps
        if not gap <= 64 * step * max(1.0, float(final[real].abs().max())):
            raise UnsupportedModelError(
                f"{self.bound.model.config.model_type!r}: entered at block {self.layer} it ends"
                f" {gap:.3g} away from its own hidden state, so its blocks are given something"
                " from below that is not kept. Set align.cache.where: off."
            )
        self.checked.add(PIXELS[0] in batch.inputs)

    def _enters(self, batch: TrainBatch) -> bool:
        return self.layer > 0 or PIXELS[0] in batch.inputs

    def _rows(self, batch: TrainBatch) -> list[_Row]:
        inputs = batch.inputs
        ids, labels = inputs["input_ids"].cpu(), batch.labels.cpu()
        mask = inputs["attention_mask"] if "attention_mask" in inputs else torch.ones_like(ids)
        real = mask.bool()
        if "position_ids" not in inputs and not bool(real[:, 0].all()):
            raise ConfigError("cache: rows are padded on the left; pad them on the right.")
        if PIXELS[0] in inputs and len(batch.pictures) != len(ids):
            raise ConfigError(
                "cache: a batch has pictures and does not name them (TrainBatch.pictures), so rows"
                " with other pictures could not be told apart."
            )
        rows = []
        for place, here in enumerate(real.cpu()):
            picture = batch.pictures[place] if batch.pictures else ""
            text = sha256(picture.encode() + b"/")
            text.update(ids[place][here].numpy().tobytes())
            text.update(labels[place][here].numpy().tobytes())
            rows.append(_Row(text.hexdigest()[:32], picture, real[place]))
        return rows

    def _split(
        self, batch: TrainBatch, rows: Sequence[_Row], given: Entrance | None
    ) -> dict[str, Tensor]:
        """What entered, row by row and picture by picture."""
        assert given is not None
        found: dict[str, Tensor] = {}
        seen = pieces(self.bound, batch.inputs)
        counts = seen.sum(1).tolist()
        deep = {i: torch.split(one, counts) for i, one in given.deep.items()}
        for place, row in enumerate(rows):
            if self.layer:
                found[f"h/{row.key}"] = given.hidden[place][row.real]
            if not row.picture:
                continue
            if not self.layer:
                found[f"h/{row.picture}"] = given.hidden[place][seen[place]]
            for i, each in deep.items():
                found[f"{i}/{row.picture}"] = each[place]
            if given.crossed is not None:
                found[f"x/{row.picture}"] = given.crossed[place]
        return {
            name: value.detach().to("cpu", copy=True)
            for name, value in found.items()
            if name not in self.entrances
        }

    def _base(
        self, batch: TrainBatch, rows: Sequence[_Row], final: Tensor | None
    ) -> dict[str, Tensor]:
        """What the base model has at the answers, row by row."""
        assert final is not None
        mask = batch.predicting()
        found: dict[str, Tensor] = {}
        if self.pairs:
            logits = head(self.bound, final[mask.to(final.device)])
            each = row_logprobs(said_at(batch, mask, logits), batch).cpu()
            found |= {f"p/{row.key}": each[place].clone() for place, row in enumerate(rows)}
        if self.drifts:
            found |= {
                f"s/{row.key}": final[place][mask[place]].to("cpu", copy=True)
                for place, row in enumerate(rows)
                if bool(batch.benign[place])
            }
        return found

    @contextmanager
    def under(self, batch: TrainBatch) -> Iterator[TrainBatch]:
        if not self.enters or not self._enters(batch):
            yield batch
            return
        rows, seen = self._rows(batch), pieces(self.bound, batch.inputs)
        given = self._given(rows, seen)
        inputs = {name: value for name, value in batch.inputs.items() if name not in PIXELS}
        with entered(self.bound, self.layer, given, seen):
            yield replace(batch, inputs=inputs)

    def _given(self, rows: Sequence[_Row], seen: Tensor) -> Entrance:
        """A batch's entrance, put together from what was kept of its rows."""
        names = [f"h/{row.key if self.layer else row.picture}" for row in rows]
        parts = [
            self._get(self.entrances, name) if self.layer or row.picture else None
            for name, row in zip(names, rows, strict=True)
        ]
        like = next(part for part in parts if part is not None)
        hidden = like.new_zeros(*seen.shape, like.shape[-1])
        for place, (row, part) in enumerate(zip(rows, parts, strict=True)):
            if part is not None:
                hidden[place, row.real if self.layer else seen[place]] = part
        pictures = [row.picture for row in rows if row.picture]
        deep, number = {}, self.layer
        while pictures and f"{number}/{pictures[0]}" in self.entrances:
            each = [self._get(self.entrances, f"{number}/{one}") for one in pictures]
            deep[number], number = torch.cat(each), number + 1
        crossed = None
        if pictures and f"x/{pictures[0]}" in self.entrances:
            crossed = torch.stack([self._get(self.entrances, f"x/{one}") for one in pictures])
        return Entrance(hidden, deep, crossed)

    def _get(self, shelf: Shelf, name: str) -> Tensor:
        if name not in shelf:
            raise ConfigError(
                "cache: an epoch has a row that the first epoch had not. Give every epoch the same"
                " rows, or set align.cache.where: off."
            )
        return shelf.get(name).to(self.bound.device)

    def benign_logits(self, batch: TrainBatch) -> Tensor:
        rows = [row for row, benign in zip(self._rows(batch), batch.benign, strict=True) if benign]
        hidden = torch.cat([self._get(self.base, f"s/{row.key}") for row in rows])
        with torch.no_grad():
            return head(self.bound, hidden)

    def logprobs(self, batch: TrainBatch) -> Tensor:
        return torch.stack([self._get(self.base, f"p/{row.key}") for row in self._rows(batch)])


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"

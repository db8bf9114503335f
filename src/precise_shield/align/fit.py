"""The training loop: plain, seeded, and resumable bit for bit from its last checkpoint."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from precise_shield.align.checkpoint import (
    Progress,
    load_checkpoint,
    restore,
    save_checkpoint,
    snapshot,
)
from precise_shield.align.delta import Deltas
from precise_shield.align.frozen import CacheSpec, Frozen, Kept, Note
from precise_shield.align.losses import TrainBatch, answers, kl_to
from precise_shield.align.preference import dpo, row_logprobs
from precise_shield.align.slices import fingerprint
from precise_shield.align.spec import Batches, FitSpec
from precise_shield.core.errors import ConfigError, DataError, NumericError
from precise_shield.core.parallel import Crew, crew
from precise_shield.models.holding.held import is_sharded
from precise_shield.models.passes.decoder import blocks
from precise_shield.models.passes.rerun import rerun
from precise_shield.models.passes.sparing import sparing
from precise_shield.models.readings.head import check_head

Validate = Callable[[], float]
"""Called with dropout off; the lower the better (a loss, or minus an endpoint)."""


@dataclass(frozen=True)
class StepInfo:
    """What one optimiser step did: one line of a metrics file."""

    step: int
    """Counted from 1."""
    total: int
    epoch: int
    """Counted from 0."""
    loss: float
    """What was minimised: NLL, reduced as the spec says, or DPO a pair; plus weighted KL."""
    nll: float
    """Nats an answer token, whatever the reduction."""
    kl: float | None
    """KL(base ‖ tuned), nats a benign answer token; None when there was none or it is off."""
    grad_norm: float
    """L2 norm before clipping."""
    learning_rate: float
    tokens: int
    """Answer tokens of the step."""
    seconds: float
    """Training time since the start, earlier parts of a resumed run included."""


OnStep = Callable[[StepInfo], None]


@dataclass(frozen=True)
class FitResult:
    """How a run went."""

    steps: int
    losses: tuple[float, ...]
    """One a step."""
    seconds: float
    validations: tuple[float, ...]
    stopped: Literal["done", "early"]
    """`early`: validation did not improve any more. The best deltas are in place either way."""
    best_step: int | None = None
    """The step whose deltas are in place; None where nothing was validated: the last."""


def fit(
    deltas: Deltas,
    batches: Batches,
    spec: FitSpec,
    *,
    checkpoint: Path | None = None,
    validate: Validate | None = None,
    on_step: OnStep | None = None,
    cache: CacheSpec | None = None,
    note: Note | None = None,
) -> FitResult:
    """Train `deltas` with AdamW, inside the block of `tuning` that made them.

    The model's own train or eval mode stays as the caller set it; only LoRA's dropout is
    switched. Runs that were killed continue from `checkpoint`, if it is there, and end bit for
    bit where an uninterrupted run ends, with as many processes as had begun. Under `torchrun`
    (torch.distributed set up, the same model and batches in every process) each process takes its
    share of a step's passes, and the result is that of one process. With `validate` the deltas
    end at the best validation.

    With `cache` the frozen part below the lowest trained block, pictures included, and the base
    model's answers are computed once a row. Losses and weights are those without it: bit for bit
    where every epoch has the first one's batches, and to rounding where rows meet in others.

    Raises:
        NumericError: the loss, the gradient or a validation is NaN or infinite.
        DataError: there is no batch, or a row without an answer.
        ConfigError: a batch holds more rows than `micro_batch`, or epochs differ in length.
        UnsupportedModelError: the output head does something this package does not know of.
        StoreError: `checkpoint`, or the cache's folder, belongs to another run.
    """
    run = _Run(deltas, batches, spec, checkpoint, validate, on_step)
    if cache is not None:
        run.keep(cache, note or (lambda _: None))
    return run.through()


class _Run:
    """One call of `fit`."""

    def __init__(
        self,
        deltas: Deltas,
        batches: Batches,
        spec: FitSpec,
        checkpoint: Path | None,
        validate: Validate | None,
        on_step: OnStep | None,
    ) -> None:
        self.deltas, self.batches, self.spec = deltas, batches, spec
        self.checkpoint, self.validate, self.on_step = checkpoint, validate, on_step
        self.crew, self.together = crew(), is_sharded(deltas.bound.model)
        self.learning = [p for p in deltas.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.learning, lr=spec.learning_rate, weight_decay=spec.weight_decay
        )
        first = batches(0)
        if not first:
            raise DataError("there is no batch to train on. Give rows of the train split.")
        self.passes = len(first)
        self.total = spec.total_steps(self.passes)
        settings = {**asdict(spec), "checkpoint_every": None, "first": fingerprint(first[0].labels)}
        text = f"{deltas.identity()} {settings} {self.passes}"
        self.run = hashlib.sha256(text.encode()).hexdigest()
        self.progress = Progress()
        self.frozen = Frozen(deltas)

    def keep(self, cache: CacheSpec, note: Note) -> None:
        """Compute the frozen part once a row, where that is used more than once."""
        if not cache.pays(self.spec, self.passes):
            note("cache: no row is met twice in this training, so nothing is kept")
            return
        self.frozen = Kept(self.deltas, self.spec, cache, self.crew, note)
        self.run = hashlib.sha256(f"{self.run}/kept".encode()).hexdigest()

    def through(self) -> FitResult:
        """Run, or continue, to the end."""
        progress = self.progress = self._resume()
        an_epoch = self.spec.steps_an_epoch(self.passes)
        held, items = 0, self._items(0)
        with self.deltas.off():  # also when all is done already: a block without a pass fails
            check_head(self.deltas.bound, items[0].to(self.deltas.bound.device).inputs)
        if not self._over():
            start = time.perf_counter()
            self.frozen.fill(items)
            progress.seconds += time.perf_counter() - start
        every = blocks(self.deltas.bound)
        again = every if self.spec.gradient_checkpointing else []
        spared = every if self.spec.sparing else []
        while not self._over():
            epoch, place = divmod(progress.step, an_epoch)
            if epoch != held:
                held, items = epoch, self._items(epoch)
            with rerun(again), sparing(spared):
                self._step(_group(items, place, self.spec, self.crew, self.together), epoch)
            self._look(epoch_ends=place == an_epoch - 1)
        early = progress.finished and progress.step < self.total
        progress.finished = True
        self._save()
        if progress.best:
            restore(self.deltas, progress.best)
        return FitResult(
            progress.step,
            tuple(progress.losses),
            progress.seconds,
            tuple(progress.validations),
            "early" if early else "done",
            progress.best_step,
        )

    def _over(self) -> bool:
        return self.progress.finished or self.progress.step >= self.total

    def _resume(self) -> Progress:
        team = self.crew.size
        if self.checkpoint is None:
            return Progress(processes=team)
        return load_checkpoint(self.checkpoint, self.run, self.deltas, self.optimizer, team)

    def _save(self) -> None:
        if self.checkpoint is not None and self.crew.leads:
            save_checkpoint(self.checkpoint, self.run, self.progress, self.deltas, self.optimizer)

    def _items(self, epoch: int) -> Sequence[TrainBatch]:
        items = self.batches(epoch)
        if len(items) != self.passes:
            raise ConfigError(
                f"epoch {epoch} has {len(items)} batches and epoch 0 had {self.passes}. Every"
                " epoch must have the same number, for the schedule is laid out beforehand."
            )
        return items

    def _step(self, group: Sequence[_Pass], epoch: int) -> None:
        """One optimiser step, equal however often it is resumed or shared among processes."""
        start, spec, step = time.perf_counter(), self.spec, self.progress.step
        rate = spec.rate_at(step, self.total)
        for setting in self.optimizer.param_groups:
            setting["lr"] = rate
        weights = self.deltas.bound.model.parameters()
        devices = {weight.device.index for weight in weights if weight.device.type == "cuda"}
        with torch.random.fork_rng(sorted(devices)):
            self.deltas.train()
            loss, nll, kl, tokens = self._accumulate(group)
            self.deltas.eval()
        self.crew.add_gradients(self.learning)
        norm = float(
            torch.nn.utils.clip_grad_norm_(
                self.learning, math.inf if spec.clip is None else spec.clip
            )
        )
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NumericError(
                f"step {step + 1}: the loss is {loss:.4g} and its gradient's norm {norm:.4g}."
                " Lower the learning rate or raise the warm-up; if it is the first step, load"
                " the model in bfloat16 or float32 and look at the batch."
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress = self.progress
        progress.step += 1
        progress.losses.append(loss)
        progress.seconds += time.perf_counter() - start
        if self.on_step is not None and self.crew.leads:
            info = StepInfo(
                progress.step,
                self.total,
                epoch,
                loss,
                nll / tokens,
                kl,
                norm,
                rate,
                tokens,
                progress.seconds,
            )
            self.on_step(info)

    def _accumulate(self, group: Sequence[_Pass]) -> tuple[float, float, float | None, int]:
        """Backward through this process's passes; returns the step's loss, NLL, KL and tokens.

        Each pass is divided by the step's own total, so neither the cut into passes nor the
        number of processes matters. NLL is summed, KL a token.
        """
        spec, bound = self.spec, self.deltas.bound
        counts = self.crew.total(
            sum(one.batch.tokens() for one in group if one.counts),
            sum(one.batch.rows for one in group if one.counts),
            sum(one.benign_tokens() for one in group if one.counts),
        )
        tokens, rows, benign = (int(count) for count in counts)
        over = tokens if spec.reduction == "mean" else rows
        if spec.objective == "dpo":
            over = rows // 2
        with_kl = spec.kl_weight > 0 and benign > 0
        total, nll, kl = 0.0, 0.0, 0.0
        for one_pass in group:
            batch, weight = one_pass.batch.to(bound.device), float(one_pass.counts)
            torch.manual_seed(_mixed(spec.seed, self.progress.step, one_pass.place))  # of dropout
            drifts = with_kl and (self.frozen.runs_base or bool(batch.benign.any()))
            if drifts:
                base = self.frozen.benign_logits(batch)
            with self.frozen.under(batch) as lean:
                said = answers(bound, lean)
            one = said.nll()
            nll += weight * float(one.detach())
            if spec.objective == "dpo":
                before = self.frozen.logprobs(batch)
                one = dpo(row_logprobs(said, batch), before, spec.beta)
            loss = weight * one / over
            total += float(loss.detach())
            if drifts:
                drift: Tensor = weight * kl_to(base, said.logits[said.benign]) / benign
                loss = loss + spec.kl_weight * drift
                kl += float(drift.detach())
            loss.backward()  # type: ignore[no-untyped-call]
        total, nll, kl = self.crew.total(total, nll, kl)
        return total + spec.kl_weight * kl, nll, kl if with_kl else None, tokens

    def _look(self, epoch_ends: bool) -> None:
        """Validate and save where the spec says so."""
        spec, progress = self.spec, self.progress
        due = progress.step % spec.validate_every == 0 if spec.validate_every else epoch_ends
        if self.validate is not None and (due or progress.step == self.total):
            figure = self.crew.as_leader(float(self.validate()))  # all go on, or none
            if not math.isfinite(figure):
                raise NumericError(
                    f"validation after step {progress.step} gave {figure}. A cell of it is empty"
                    " or undefined; give it examples that can be judged."
                )
            progress.validations.append(figure)
            progress.validated.append(progress.step)
            if progress.stale == 0:
                progress.best = snapshot(self.deltas)
            progress.finished = progress.stale >= spec.patience
        if epoch_ends or progress.step % spec.checkpoint_every == 0:
            self._save()


class _Pass(NamedTuple):
    """One forward and backward pass of a step."""

    place: int
    batch: TrainBatch
    counts: bool = True
    """False where it is run only so that this process stays in step with the others."""

    def benign_tokens(self) -> int:
        return int((self.batch.predicting() & self.batch.benign[:, None]).sum())


def _group(
    items: Sequence[TrainBatch], place: int, spec: FitSpec, crew: Crew, together: bool
) -> list[_Pass]:
    """This process's passes of a step; with `together`, as many as every other process has."""
    first = place * spec.accumulate
    places = range(first, min(first + spec.accumulate, len(items)))
    group = [_Pass(number, items[where]) for number, where in crew.share(places)]
    while together and len(group) * crew.size < len(places):
        group.append(_Pass(0, items[first], counts=False))
    widest = max((one.batch.rows for one in group), default=0)
    if widest > spec.micro_batch:
        raise ConfigError(
            f"a batch holds {widest} rows and micro_batch is {spec.micro_batch}. Cut the batches"
            " smaller, or raise micro_batch."
        )
    return group


def _mixed(seed: int, *places: int) -> int:
    text = "/".join(map(str, (seed, *places)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

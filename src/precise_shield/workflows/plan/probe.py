"""One real batch of each kind of work, timed; the model is as it came afterwards."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from precise_shield.align.delta import DirectUnits, Form, tuning
from precise_shield.align.fit import StepInfo, fit
from precise_shield.align.losses import TrainBatch
from precise_shield.align.sparse import undo
from precise_shield.core.errors import UserError
from precise_shield.core.records import Example
from precise_shield.core.sites import NeuronSet
from precise_shield.core.store import peak_memory_mb
from precise_shield.identify.collect import ACTIVATION, Quantity, empty
from precise_shield.identify.collect import step as read
from precise_shield.identify.streaming import fitting_batch
from precise_shield.models.answers.generation import generate
from precise_shield.models.inputs.encoding import lengths
from precise_shield.models.inputs.encoding import plan as batches_of
from precise_shield.workflows.align.arms import Shuffled, configured, spec_of
from precise_shield.workflows.align.plans import form_of
from precise_shield.workflows.identify.collecting import LARGEST
from precise_shield.workflows.identify.collecting import Plan as Reading
from precise_shield.workflows.identify.quantities import affordable, needed
from precise_shield.workflows.plan.work import Probing, Work, plan_of, trainings
from precise_shield.workflows.verify.panel import first_token_readout, spread
from precise_shield.workflows.verify.stage import verified_prompts

DRAWN = 12
"""Tokens that are generated to time one."""

WHOLE = 8
"""Answers that are generated to their end, to see how long answers get."""


@dataclass(frozen=True)
class Price:
    """What one unit of work costs; `problem` says why it is not known."""

    seconds: float | None = None
    """Of a row, prompt or step; of an answer, all but its further tokens."""

    token: float = 0.0
    """Seconds of each further token of an answer."""

    ends: int | None = None
    """Tokens of the longest of some answers that all ended by themselves; None where one did not,
    and an answer counts at the full length that it may take."""

    peak_mib: float | None = None
    """Highest memory, weights included."""

    batch: str = ""
    problem: str = ""

    def of(self, work: Work) -> float | None:
        """Estimated seconds of one unit of `work`."""
        if self.seconds is None:
            return None
        tokens = work.tokens if self.ends is None else min(work.tokens, self.ends)
        return self.seconds + self.token * max(0, tokens - 1)


def prices(run: Probing, work: Iterable[Work]) -> dict[tuple[str, str], Price]:
    """The price of every kind of work that a plan has, by unit and quantity.

    Each is timed on a batch of middle length after the longest one, which warms up and gives the
    peak. A kind that runs out of memory is named as a problem and has no price.
    """
    made: dict[tuple[str, str], Price] = {}
    quantities = {quantity.name: quantity for quantity in needed(run.config.identify)}
    for kind in sorted({(each.unit, each.quantity) for each in work}):
        unit, quantity = kind
        if unit == "row":
            asked = quantities.get(quantity, ACTIVATION)
            made[kind] = _guarded(run, lambda asked=asked: _row(run, asked))  # type: ignore[misc]
        elif unit == "answer":
            made[kind] = _guarded(run, lambda: _answer(run))
        elif unit == "prompt":
            made[kind] = _guarded(run, lambda: _prompt(run))
        elif unit == "step":
            made[kind] = _guarded(run, lambda: _step(run))
    return made


def _guarded(run: Probing, work: Callable[[], Price]) -> Price:
    """A price and its peak, or that it does not fit; other mistakes are the caller's."""
    gc.collect()
    gpu = run.loaded.device.type == "cuda"
    if gpu:
        torch.cuda.empty_cache()
    fresh = _forget_peak(gpu=gpu)
    try:
        price = work()
    except torch.OutOfMemoryError:
        return Price(problem="ran out of memory")
    except UserError as error:
        if "does not fit" not in str(error):
            raise
        return Price(problem=str(error))
    return replace(price, peak_mib=_peak(gpu=gpu) if fresh else peak_memory_mb())


def _forget_peak(*, gpu: bool) -> bool:
    """Start a new peak; False where the system only knows that of the whole process."""
    if gpu:
        for number in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(number)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak(*, gpu: bool) -> float:
    """MiB: of the fullest GPU, or resident memory of this process."""
    if gpu:
        count = torch.cuda.device_count()
        return max(torch.cuda.max_memory_allocated(number) for number in range(count)) / 2**20
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


T = TypeVar("T")


def _timed(run: Probing, work: Callable[[], T]) -> tuple[float, T]:
    _settle(run)
    start = time.perf_counter()
    found = work()
    _settle(run)
    return time.perf_counter() - start, found


def _settle(run: Probing) -> None:
    if run.loaded.device.type == "cuda":
        torch.cuda.synchronize()


def _ends(parts: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """The longest batch, and one of middle length."""
    return parts[0], parts[len(parts) // 2]


def _row(run: Probing, quantity: Quantity) -> Price:
    section = run.config.identify
    rows = list(affordable(section, quantity, run.examples("probe")))
    reading = Reading(run, rows, None, quantity)
    make, size = reading.make(), section.batch_size
    if size is None:
        longest = reading.longest(LARGEST.get(run.loaded.device.type, 64))
        size = fitting_batch(run.bound, longest, make, quantity)
    size = min(size, quantity.batch_size or size)
    longest, middle = _ends(reading.parts(size))
    cells = {row.cell for row in rows}

    def work(part: list[int]) -> None:
        read(run.bound, empty(run.bound, cells, reading.folded), make(part), quantity)

    work(longest)
    seconds, _ = _timed(run, lambda: work(middle))
    return Price(seconds / len(middle), batch=f"{len(middle)} rows")


def _answer(run: Probing) -> Price:
    section = run.config.evaluate
    rows = run.examples(section.split)
    parts = list(batches_of(run.loaded, rows, None, section.batch_size))
    longest, middle = ([rows[i] for i in part] for part in _ends(parts))

    def answer(asked: list[Example], limit: int) -> int:
        said = generate(
            run.loaded,
            asked,
            condition="probe",
            max_new_tokens=limit,
            batch_size=section.batch_size,
        )
        return max(each.tokens or 1 for each in said)

    answer(longest, min(DRAWN, section.max_new_tokens))
    first, _ = _timed(run, lambda: answer(middle, 1))
    whole, drawn = _timed(run, lambda: answer(middle, DRAWN))
    token = max(0.0, whole - first) / (drawn - 1) if drawn > 1 else first
    count, sample = len(middle), spread(rows, WHOLE, run.config.seed)
    longest_said = answer(sample, section.max_new_tokens)
    ends = longest_said if longest_said < section.max_new_tokens else None
    batch = f"{count} answers, {drawn} tokens; {len(sample)} to their end, {longest_said} tokens"
    return Price(first / count, token / count, ends, batch=batch)


def _prompt(run: Probing) -> Price:
    prompts, size = verified_prompts(run), run.config.verify.batch_size
    parts = list(batches_of(run.loaded, prompts, None, size))
    longest, middle = ([prompts[i] for i in part] for part in _ends(parts))
    first_token_readout(run, longest)()
    readout = first_token_readout(run, middle)
    seconds, _ = _timed(run, readout)
    return Price(seconds / len(middle), batch=f"{len(middle)} prompts")


def stand_ins(run: Probing, lowest: int = 0) -> tuple[Form, NeuronSet]:
    """How neurons are trained, and as many as the run will choose, of the layers from one on."""
    section = run.config
    sites = {site: spot for site, spot in run.bound.sites.items() if site.layer >= lowest}
    chosen = {site: max(1, round(section.identify.p * spot.width)) for site, spot in sites.items()}
    if section.align.polarity == "rest":
        rest = {site: range(k, sites[site].width) for site, k in chosen.items()}
        return DirectUnits(), NeuronSet.of(rest)
    return form_of(run), NeuronSet.of({site: range(k) for site, k in chosen.items()})


def _step(run: Probing) -> Price:
    """Two steps of one pass each; the second counts, as often as a real step has passes."""
    rows = trainings(run)[0].rows
    form, neurons = stand_ins(run)
    plan, real = plan_of(run, rows), spec_of(run, len(rows), configured(run))
    sizes = lengths(run.loaded, rows, [row.target or "" for row in rows])
    order = sorted(range(len(rows)), key=lambda i: (rows[i].image is None, -sizes[i]))
    pair = 2 if real.objective == "dpo" else 1
    demanding = [rows[i] for i in order[: max(1, real.micro_batch // pair)]]
    spec = replace(
        real, batch_size=real.micro_batch, epochs=1, max_steps=None, checkpoint_every=10**9
    )
    items: list[TrainBatch] = [
        Shuffled(run, replace(plan, rows=demanding), spec)(0)[0],
        Shuffled(run, plan, spec)(0)[0],
    ]
    times: list[float] = []

    def on_step(info: StepInfo) -> None:
        _settle(run)
        times.append(info.seconds)

    with tuning(run.bound, neurons, form, seed=spec.seed) as deltas:
        fit(deltas, lambda _: items, spec, on_step=on_step)
    undo(run.bound, deltas.sparse())
    passes = min(real.accumulate, -(-len(rows) * pair // real.micro_batch))
    return Price((times[1] - times[0]) * passes, batch=f"{real.micro_batch} rows x {passes}")

"""One real batch of each kind of work, timed; the model is as it came afterwards."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from precise_shield.align.delta import DirectUnits, Form, tuning
from precise_shield.align.fit import StepInfo, fit
from precise_shield.align.receipt import make_receipt, seal
from precise_shield.align.sparse import undo
from precise_shield.align.spec import FitSpec
from precise_shield.core.controls import matched_random
from precise_shield.core.errors import UserError
from precise_shield.core.records import Example
from precise_shield.core.sites import NeuronSet
from precise_shield.core.store import peak_memory_mb
from precise_shield.identify.collect import ACTIVATION, Quantity, empty
from precise_shield.identify.collect import step as read
from precise_shield.identify.streaming import fitting_batch
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.models.answers.generation import generate
from precise_shield.models.inputs.encoding import lengths
from precise_shield.models.inputs.encoding import plan as batches_of
from precise_shield.models.readings.likelihood import first_token_ids
from precise_shield.models.readings.readout import FirstTokenReadout
from precise_shield.workflows.align.arms import Shuffled, configured, spec_of
from precise_shield.workflows.align.plans import Plan, form_of
from precise_shield.workflows.evaluate.headlines import readout_rows
from precise_shield.workflows.identify.collecting import LARGEST
from precise_shield.workflows.identify.collecting import Plan as Reading
from precise_shield.workflows.identify.quantities import affordable, needed
from precise_shield.workflows.plan.price import Price, priced
from precise_shield.workflows.plan.timing import PATIENCE, ROUNDS, Timing, moment, timed
from precise_shield.workflows.plan.work import OFF, TESTED, Probing, Work, plan_of, trainings
from precise_shield.workflows.verify.panel import refusals, spread
from precise_shield.workflows.verify.stage import verified_prompts

DRAWN = 12
"""Tokens that are generated to time one."""

SPREAD = 3
"""Batches of different length that are timed."""

WAIT = 60.0
"""Seconds that a batch may take to be answered to its end."""

WHOLE = 8
"""Answers that are generated to their end where a whole batch would take too long."""


def prices(run: Probing, work: Iterable[Work]) -> dict[tuple[str, str], Price]:
    """The price of every kind of work that a plan has, by unit and quantity.

    Each is timed on batches of several lengths after the longest one, which warms up and gives the
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
            made[kind] = _guarded(run, lambda asked=quantity: _prompt(run, asked))  # type: ignore[misc]
        elif unit == "draw":
            made[kind] = _guarded(run, lambda: _draw(run))
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


def _typical(parts: Sequence[list[int]]) -> list[list[int]]:
    """Batches in the middle of equal shares of all, which are in order of length."""
    count = min(SPREAD, len(parts))
    return [parts[(2 * place + 1) * len(parts) // (2 * count)] for place in range(count)]


def _each(run: Probing, parts: Sequence[list[int]], work: Callable[[list[int]], object]) -> Timing:
    """What an item of typical batches takes, after the longest batch, which warms up."""
    work(parts[0])
    typical = _typical(parts)
    took = timed(run.loaded.device, [lambda part=part: work(part) for part in typical])  # type: ignore[misc]
    return took.over(sum(map(len, typical)))


def _row(run: Probing, quantity: Quantity) -> Price:
    section = run.config.identify
    rows = list(affordable(section, quantity, run.examples("probe")))
    reading = Reading(run, rows, None, quantity)
    make, size = reading.make(), section.batch_size
    start = moment(run.loaded.device)
    if size is None:
        longest = reading.longest(LARGEST.get(run.loaded.device.type, 64))
        size = fitting_batch(run.bound, longest, make, quantity)
    size = min(size, quantity.batch_size or size)
    parts = reading.parts(size)
    search = moment(run.loaded.device) - start
    cells = {row.cell for row in rows}

    def work(part: list[int]) -> None:
        read(run.bound, empty(run.bound, cells, reading.folded), make(part), quantity)

    return replace(priced(_each(run, parts, work), batch=_told(parts, "rows")), once=search)


def _told(parts: Sequence[list[int]], what: str) -> str:
    return f"{' + '.join(str(len(part)) for part in _typical(parts))} {what}"


def _answer(run: Probing) -> Price:
    """Reading the prompts of typical batches, then one batch like all prompts answered to its end.

    Where that would take too long, tokens are priced by the first few of the batch, and a few
    answers alone are given to their end.
    """
    section, device = run.config.evaluate, run.loaded.device
    rows, limit = run.examples(section.split), section.max_new_tokens
    parts = list(batches_of(run.loaded, rows, None, section.batch_size))
    like_all = spread(rows, section.batch_size, run.config.seed)
    longest = 1

    def answer(asked: list[Example], most: int) -> None:
        nonlocal longest
        said = generate(
            run.loaded, asked, condition="probe", max_new_tokens=most, batch_size=len(asked)
        )
        longest = max(each.tokens or 1 for each in said)

    answer([rows[i] for i in parts[0]], min(DRAWN, limit))
    first = _each(run, parts, lambda part: answer([rows[i] for i in part], 1))
    count = len(like_all)
    reading = timed(device, [lambda: answer(like_all, 1)])
    drawn = timed(device, [lambda: answer(like_all, min(DRAWN, limit))]) - reading
    token = drawn.over(max(1, longest - 1) * count)
    given = like_all
    if longest == DRAWN < limit:  # some go on
        if drawn.wall / DRAWN * limit < WAIT:
            token = (timed(device, [lambda: answer(like_all, limit)]) - reading).over(
                max(1, longest - 1) * count
            )
        else:
            given = spread(rows, WHOLE, run.config.seed)
            answer(given, limit)
    batch = f"{count} answers; {len(given)} to their end, {longest} tokens"
    return priced(first, token, ends=longest if longest < limit else None, batch=batch)


def _prompt(run: Probing, kind: str) -> Price:
    """First tokens, read as `verify` does, with neurons `OFF` or not, or as `evaluate` does."""
    if kind == TESTED:
        section, told = run.config.evaluate, refusals(run)
        test = [row for row in run.examples(section.split) if row.language in told]
        prompts, size = readout_rows(test, section.readout_rows), section.batch_size
    else:
        prompts, size = verified_prompts(run), run.config.verify.batch_size
    parts = list(batches_of(run.loaded, prompts, None, size))
    tokens = {lang: first_token_ids(run.loaded, said) for lang, said in refusals(run).items()}
    read = {
        part[0]: FirstTokenReadout(run.loaded, [prompts[i] for i in part], tokens, size)
        for part in (parts[0], *_typical(parts))
    }
    told_as = _told(parts, "prompts")
    if kind != OFF:
        return priced(_each(run, parts, lambda part: read[part[0]]()), batch=told_as)
    read[parts[0][0]]()
    typical = _typical(parts)
    _, neurons = stand_ins(run)

    def off() -> None:
        with intervening(run.bound, neurons, suppress, run.config.verify.scope):
            for part in typical:
                read[part[0]]()

    return priced(timed(run.loaded.device, [off]).over(sum(map(len, typical))), batch=told_as)


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
    """Steps of one pass each, the most demanding one first; it counts as often as a real step."""
    rows = trainings(run)[0].rows
    plan, real = plan_of(run, rows), spec_of(run, len(rows), configured(run))
    sizes = lengths(run.loaded, rows, [row.target or "" for row in rows])
    order = sorted(range(len(rows)), key=lambda i: (rows[i].image is None, -sizes[i]))
    pair = 2 if real.objective == "dpo" else 1
    demanding = [rows[i] for i in order[: max(1, real.micro_batch // pair)]]
    spec = replace(real, batch_size=real.micro_batch, checkpoint_every=10**9)
    _stepped(run, spec, replace(plan, rows=demanding), 1)
    took, around = _stepped(run, spec, plan, 2)
    if took.wall < PATIENCE / ROUNDS:
        took, around = _stepped(run, spec, plan, 1 + ROUNDS)
    passes = min(real.accumulate, -(-len(rows) * pair // real.micro_batch))
    price = priced(took.over(1 / passes), batch=f"{real.micro_batch} rows x {passes}")
    return replace(price, once=around)


def _stepped(run: Probing, spec: FitSpec, plan: Plan, count: int) -> tuple[Timing, Timing]:
    """Median of some steps but the first, and what a training takes around its steps.

    The model gets its weights back bit for bit, with the receipt that every training makes.
    """
    form, neurons = stand_ins(run)
    few = replace(spec, epochs=count, max_steps=count)
    begun = moment(run.loaded.device)
    before = seal(run.bound, neurons, form)
    with tuning(run.bound, neurons, form, seed=spec.seed) as deltas:
        at = [moment(run.loaded.device)]

        def on_step(_: StepInfo) -> None:
            at.append(moment(run.loaded.device))

        fit(deltas, Shuffled(run, plan, few), few, on_step=on_step)
    sparse = deltas.sparse()
    try:
        make_receipt(run.bound, before, sparse, form, deltas.counts(), condition="", steps=count,
                     learning_rate=spec.learning_rate, final_loss=None)  # fmt: skip
    finally:
        undo(run.bound, sparse)
    around = (moment(run.loaded.device) - begun) - (at[-1] - at[0])
    steps = [later - earlier for earlier, later in pairwise(at)]
    walls, cpus = zip(*((each.wall, each.cpu) for each in steps[1:] or steps), strict=True)
    return Timing(statistics.median(walls), statistics.median(cpus)), around


def _draw(run: Probing) -> Price:
    """A random set that is matched with the chosen one on two columns of each unit."""
    _, neurons = stand_ins(run)
    widths = {site: spot.width for site, spot in run.bound.sites.items()}
    columns = {site: torch.rand(widths[site], 2) for site in neurons.units}
    took = timed(
        run.loaded.device, [lambda: matched_random(neurons, widths, seed=0, features=columns)]
    )
    return priced(took, batch="1 set")

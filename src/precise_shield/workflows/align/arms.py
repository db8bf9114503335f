"""One training after another: which neurons learn, on which rows, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from precise_shield import __version__
from precise_shield.align.amplify import COUNTS, FORM, amplified
from precise_shield.align.checkpoint import checkpoint_step
from precise_shield.align.delta import AllParameters, Deltas, Form, LoraRows, tuning
from precise_shield.align.fit import FitResult, StepInfo, fit
from precise_shield.align.losses import TrainBatch
from precise_shield.align.lowrank import low_rank
from precise_shield.align.receipt import StoredReceipt, make_receipt, seal
from precise_shield.align.slices import fingerprint
from precise_shield.align.sparse import SparseDelta, applied, undo
from precise_shield.align.spec import FitSpec
from precise_shield.core.parallel import crew
from precise_shield.core.records import Example
from precise_shield.core.sites import NeuronSet
from precise_shield.core.store import Stage, digest
from precise_shield.core.summary import Condition, Receipt
from precise_shield.data.contrast import picture_hash
from precise_shield.models.inputs.encoding import encode, mixes
from precise_shield.workflows.align.caching import cache_of
from precise_shield.workflows.align.plans import Plan
from precise_shield.workflows.align.sizes import announce
from precise_shield.workflows.align.stopping import stop_of
from precise_shield.workflows.align.tracking import tracked
from precise_shield.workflows.base.context import Run

FILES = 2
"""Schema of a training's stage folder."""


@dataclass(frozen=True)
class Arm:
    """One training: which neurons on which rows, and what came of it."""

    condition: Condition
    neurons: NeuronSet
    receipt: Receipt
    delta_path: Path
    made_by: str
    """Digest of everything that made the delta."""

    @property
    def stored(self) -> StoredReceipt:
        """The receipt with the hashes that prove it."""
        return StoredReceipt.load(self.delta_path.with_name("receipt.json"))

    def delta(self) -> SparseDelta:
        """The changed rows, old and new."""
        return SparseDelta.load(self.delta_path)


@dataclass(frozen=True)
class Settings:
    """What a validation search may vary."""

    learning_rate: float
    max_steps: int | None
    factor: float
    kl_weight: float
    p: float
    """Of the set; the plan holds the neurons."""
    rank: int
    """Of LoRA; the plan's form holds it."""

    def named(self, names: Iterable[str]) -> dict[str, float]:
        """Some of the settings by name; a number of steps that is not limited is left out."""
        values = {name: getattr(self, name) for name in names}
        return {name: float(value) for name, value in values.items() if value is not None}


def configured(run: Run) -> Settings:
    """The settings as the configuration has them."""
    section = run.config.align
    return Settings(
        section.learning_rate,
        section.max_steps,
        section.factor,
        section.kl_weight,
        run.config.identify.p,
        section.rank,
    )


def training_seed(run: Run) -> int:
    """Seed of every training's start, order and dropout."""
    section = run.config
    return section.seed if section.align.seed is None else section.align.seed


def spec_of(run: Run, rows: int, settings: Settings) -> FitSpec:
    """The configured training settings, with those of a search in their place."""
    section = run.config.align
    stop = section.early_stop
    pair = 2 if section.objective == "dpo" else 1
    size = pair * min(section.batch_size, rows)
    micro = min(pair * (section.micro_batch or size), size)
    return FitSpec(
        epochs=section.epochs,
        batch_size=size - size % micro,
        micro_batch=micro,
        learning_rate=settings.learning_rate,
        warmup=section.warmup,
        seed=training_seed(run),
        max_steps=settings.max_steps,
        reduction=section.reduction,
        kl_weight=settings.kl_weight,
        objective=section.objective,
        beta=section.beta,
        gradient_checkpointing=section.gradient_checkpointing,
        sparing=section.sparing,
        validate_every=(stop.every or 0) if stop.cells else 0,
        patience=stop.patience if stop.cells else 2,
    )


def make(run: Run, plan: Plan, settings: Settings) -> Arm:
    """Train, or amplify, what a plan says; taken from the store if it is there.

    Raises:
        ReceiptError: something outside the chosen rows moved.
    """
    neurons = digest(plan.neurons.to_json())
    if plan.form is None:
        made_by = run.made_by([], neurons=neurons, factor=settings.factor, files=FILES)
        what = f"amplify {plan.condition.name}: {len(plan.neurons)} neurons x {settings.factor:g}"
    else:
        spec = spec_of(run, len(plan.rows), settings)
        form = asdict(plan.form) | {"name": type(plan.form).__name__}
        everything = isinstance(plan.form, AllParameters)
        stop = stop_of(run)
        made_by = run.made_by(
            plan.rows,
            neurons=neurons,
            order=digest([row.id for row in plan.rows]),
            form=form,
            fit=asdict(spec),
            files=FILES,
            rejected=digest(dict(plan.rejected)),
            kept=run.config.align.cache.where != "off" and not everything,
            **({} if stop is None else {"early_stop": digest(stop.made_by)}),
        )
        what = f"align {plan.condition.name}: {len(plan.neurons)} neurons"
        shown = ["learning_rate", "max_steps", *(["kl_weight"] if settings.kl_weight else [])]
        what += "".join(f", {name} {value:g}" for name, value in settings.named(shown).items())
        what += f", rank {plan.form.rank}" if isinstance(plan.form, LoraRows) else ""
    stage = run.store.stage("align", made_by)
    with run.working(stage, what, by="model" if plan.form is None else "all") as todo:
        if todo and plan.form is None:
            _amplify(run, stage, plan.neurons, settings.factor)
        elif todo and plan.form is not None:
            _fit(run, stage, plan, plan.form, spec)
    condition = plan.condition
    if plan.form is None:
        note = f"{condition.note}; factor {settings.factor:g}"
        condition = condition.model_copy(update={"note": note})
    return read_arm(run, condition, plan.neurons, stage)


def _amplify(run: Run, stage: Stage, neurons: NeuronSet, factor: float) -> None:
    bound = run.bound
    before = seal(bound, neurons, FORM)
    delta = amplified(bound, neurons, factor)
    with applied(bound, delta):
        receipt = make_receipt(
            bound,
            before,
            delta,
            FORM,
            COUNTS,
            condition="",
            steps=0,
            learning_rate=0.0,
            final_loss=None,
        )
    stored = StoredReceipt(receipt, before, neurons, FORM, written(delta))
    keep(stage, replace(delta, recipe=recipe_of(run, delta, None)), stored)


def read_arm(run: Run, condition: Condition, neurons: NeuronSet, stage: Stage) -> Arm:
    """A finished training, from its stage."""
    path = stage.path("delta.safetensors")
    content = stage.read_json("receipt.json")["receipt"]
    named = {"condition": condition.name, "delta": str(path.relative_to(run.folder))}
    return Arm(condition, neurons, Receipt.model_validate(content | named), path, stage.key)


def _fit(
    run: Run,
    stage: Stage,
    plan: Plan,
    form: Form,
    spec: FitSpec,
) -> None:
    bound, neurons = run.bound, plan.neurons
    idle = crew().size - spec.accumulate
    if idle > 0:
        run.reporter.say(
            f"{idle} of {crew().size} processes have no pass to do in a step of {spec.accumulate};"
            " lower align.micro_batch"
        )
    announce(run, plan.condition.name, neurons, form)
    before = seal(bound, neurons, form)
    deltas, result = _learn(run, stage, plan, form, spec)
    sparse = deltas.sparse()
    try:
        receipt = make_receipt(
            bound,
            before,
            sparse,
            form,
            deltas.counts(),
            condition="",
            steps=result.steps,
            learning_rate=spec.learning_rate,
            final_loss=result.losses[-1] if result.losses else None,
        )
    finally:
        undo(bound, sparse)
    if not crew().leads:
        return
    if result.best_step is not None:
        receipt = receipt.model_copy(update=ended(result))
    receipt = receipt.model_copy(update={"own_targets": own_targets(run, plan.rows)})
    stored = StoredReceipt(receipt, before, neurons, form, written(sparse))
    made = recipe_of(run, sparse, spec)
    keep(stage, replace(sparse, recipe=made), stored)
    small = low_rank(deltas)
    if small is not None:
        again(stage, "lowrank.safetensors", replace(small, recipe=made).save)


def own_targets(run: Run, rows: Iterable[Example]) -> int:
    """How many benign rows have the model's own answer in the place of a given one, or of none."""
    given = {row.id: row.target for row in run.data.examples}
    return sum(row.harm == "benign" and row.target != given[row.id] for row in rows)


def _learn(
    run: Run, stage: Stage, plan: Plan, form: Form, spec: FitSpec
) -> tuple[Deltas, FitResult]:
    """The training itself; the model holds its result afterwards."""
    bound, neurons = run.bound, plan.neurons
    batches, stop = Shuffled(run, plan, spec), stop_of(run)
    done = checkpoint_step(stage.path("checkpoint"))
    with (
        tracked(
            run.config.align.track,
            stage.folder,
            done=done,
            key=stage.key,
            name=plan.condition.name,
            settings=asdict(spec),
        ) as track,
        run.reporter.bar("train", spec.total_steps(len(batches(0))) - done) as advance,
    ):

        def on_step(info: StepInfo) -> None:
            track(asdict(info))
            advance(1)

        with tuning(bound, neurons, form, seed=spec.seed) as deltas:
            result = fit(
                deltas,
                batches,
                spec,
                checkpoint=stage.path("checkpoint"),
                validate=None if stop is None else stop.look,
                on_step=on_step,
                cache=cache_of(run, plan, spec),
                note=run.reporter.say,
            )
    return deltas, result


def ended(result: FitResult) -> dict[str, Any]:
    """What a receipt says of an early stop."""
    return {
        "stopped": result.stopped,
        "best_step": result.best_step,
        "validations": list(result.validations),
    }


def recipe_of(run: Run, sparse: SparseDelta, spec: FitSpec | None) -> dict[str, Any]:
    """What a delta file says of how it was made; nothing of this machine."""
    made = {
        **sparse.recipe,
        "version": __version__,
        "model": run.loaded.fingerprint,
        "dtype": str(run.loaded.model.dtype).removeprefix("torch."),
    }
    if run.loaded.spec.quantise is not None:
        made["quantise"] = run.loaded.spec.quantise
    return made if spec is None else {**made, "fit": asdict(spec)}


def written(sparse: SparseDelta) -> dict[str, str]:
    """SHA-256 of every weight's new slices."""
    return {change.name: fingerprint(change.new) for change in sparse.changes}


def keep(stage: Stage, sparse: SparseDelta, stored: StoredReceipt) -> None:
    """Write a training's delta, neurons and receipt."""
    again(stage, "delta.safetensors", sparse.save)
    stage.write_json("neurons.json", stored.neurons.to_json())
    stage.write_json("receipt.json", stored.content())


def again(stage: Stage, name: str, save: Callable[[Path], None]) -> None:
    """Write a file anew, also where an interrupted stage left one."""
    stage.path(name).unlink(missing_ok=True)
    save(stage.path(name))


class Shuffled:
    """Shuffled rows, encoded when they are asked for; equal epochs give equal batches."""

    def __init__(self, run: Run, plan: Plan, spec: FitSpec) -> None:
        self.run, self.plan, self.spec = run, plan, spec

    def __call__(self, epoch: int) -> Sequence[TrainBatch]:
        generator = torch.Generator().manual_seed(1000 * self.spec.seed + epoch)
        order = torch.randperm(len(self.plan.rows), generator=generator).tolist()
        size = self.spec.micro_batch // (2 if self.spec.objective == "dpo" else 1)
        if mixes(self.run.loaded):
            parts = [order[i : i + size] for i in range(0, len(order), size)]
            return _Encoded(self.run, self.plan, parts)
        parts = []
        for seeing in (True, False):
            kind = [i for i in order if (self.plan.rows[i].image is not None) == seeing]
            parts += [kind[i : i + size] for i in range(0, len(kind), size)]
        places = torch.randperm(len(parts), generator=generator).tolist()
        parts = [parts[place] for place in places]
        return _Encoded(self.run, self.plan, parts)


class _Encoded(Sequence[TrainBatch]):
    def __init__(self, run: Run, plan: Plan, parts: list[list[int]]) -> None:
        self.run, self.plan, self.parts = run, plan, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        rows: list[Example] = []
        said, benign = [], []
        for example in (self.plan.rows[i] for i in self.parts[index]):
            answers = [example.target or ""]
            if self.plan.rejected:
                answers.append(self.plan.rejected[example.id])
            rows += [example] * len(answers)
            said += answers
            benign += [example.harm == "benign", False][: len(answers)]
        batch = encode(self.run.loaded, rows, said)
        pictures = tuple("" if row.image is None else picture_hash(row.image) for row in rows)
        return TrainBatch(batch.inputs, batch.labels, torch.tensor(benign), pictures)

"""Attack the alignment in memory, and say what is left. No attacked weight is ever saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import Any

import torch

from precise_shield.align.delta import LoraRows, tuning
from precise_shield.align.fit import fit
from precise_shield.align.losses import TrainBatch
from precise_shield.align.sparse import applied, undo
from precise_shield.align.spec import FitSpec
from precise_shield.core.errors import EmptyCellError, ReceiptError
from precise_shield.core.rates import figures, or_null
from precise_shield.core.records import Example
from precise_shield.core.sites import FEED_FORWARD, NeuronSet
from precise_shield.core.store import digest
from precise_shield.core.summary import Audit, AuditRow, Condition
from precise_shield.data.contrast import fingerprint, share_of
from precise_shield.evaluate.counting.bootstrap import UNKNOWN, grouped_difference, grouped_ratio
from precise_shield.evaluate.counting.headlines import of_rate
from precise_shield.evaluate.counting.measures import Outcomes, outcomes
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.intervene.quantise import quantised
from precise_shield.models.architecture.bind import BoundModel, bind, kinds_of
from precise_shield.models.inputs.encoding import encode
from precise_shield.models.loading.weights import checked_fingerprint
from precise_shield.workflows.align.arms import Arm
from precise_shield.workflows.answer.judging import judge
from precise_shield.workflows.answer.states import State, respond
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.identify.controls import control
from precise_shield.workflows.identify.stage import Atlas

UNTOUCHED, ALIGNED = "none: untouched model", "none: aligned model"
RANK = 8
FORM = LoraRows(rank=RANK, alpha=2.0 * RANK, dropout=0.0)


def audit(run: Run, atlas: Atlas, arm: Arm) -> Audit:
    """Prune, quantise and fine-tune the aligned model, and measure attack success after each.

    Everything happens in memory and is undone; only answers and verdicts are written. Beside
    pruning stands pruning of random neurons, beside fine-tuning the same steps on the untouched
    model.

    Raises:
        EmptyCellError: there are no harmful test prompts, or no benign rows to fine-tune on.
        ReceiptError: the model is not bit for bit what it was.
    """
    section = run.config.evaluate
    prompts = attacked(run.examples(section.split), section.audit_rows)
    before = checked_fingerprint(run.loaded.model)
    columns: dict[str, Outcomes] = {}
    controls = {}
    for name, is_control, state in _attacks(run, atlas, arm):
        said = {state.name: respond(run, state, prompts)}
        verdicts = judge(run, prompts, said)[state.name]
        columns[name] = outcomes(prompts, verdicts, "attack_success", section.rule)[state.name]
        controls[name] = is_control
    if checked_fingerprint(run.loaded.model) != before:
        raise ReceiptError(
            "the model is not what it was before the audit; nothing of this run can be trusted."
            " Please report this with the configuration."
        )
    groups = {example.id: example.group for example in prompts}
    rows = [_row(name, controls[name], columns, groups) for name in columns]
    return Audit(condition=arm.condition.name, neurons=len(atlas.neurons), rows=rows, restored=True)


def attacked(examples: Sequence[Example], most: int) -> list[Example]:
    """Harmful prompts, whole groups while they fit; chosen by hash."""
    harmful = [example for example in examples if example.harm == "harmful"]
    if not harmful:
        raise EmptyCellError("the audit needs harmful test prompts; set evaluate.audit: false.")
    order = sorted({e.group for e in harmful}, key=lambda group: share_of(group, "audit"))
    kept: list[Example] = []
    for group in order:
        part = [example for example in harmful if example.group == group]
        if kept and len(kept) + len(part) > most:
            break
        kept += part
    return kept


def _attacks(run: Run, atlas: Atlas, arm: Arm) -> Iterator[tuple[str, bool, State]]:
    """Name, whether it is a control, and the state; the references first."""
    section, delta = run.config.evaluate, arm.delta()
    rows = _benign(run)
    chosen = atlas.neurons  # tuned or, where `align.polarity` is `rest`, frozen
    drawn = control(run, atlas, chosen, 0)

    def state(key: dict[str, Any], enter: Any) -> State:
        name = "audit-" + digest(key)[:8]
        condition = Condition(name=name, kind="base", label=str(key["audit"]))
        return State(condition, enter, {**key, "delta": arm.made_by})

    def with_delta(inner: Any) -> Any:
        @contextmanager
        def enter(bound: BoundModel) -> Iterator[None]:
            with applied(bound, delta), inner(bound):
                yield

        return enter

    def plain(_: BoundModel) -> AbstractContextManager[None]:
        return _nothing()

    yield UNTOUCHED, False, state({"audit": "untouched"}, plain)
    yield ALIGNED, False, state({"audit": "aligned"}, with_delta(plain))
    for name, is_control, neurons in (
        ("safety neurons pruned", False, chosen),
        ("random neurons pruned", True, drawn),
    ):
        key = {"audit": name, "neurons": digest(neurons.to_json())}
        pruned = with_delta(lambda bound, n=neurons: intervening(bound, n, suppress))
        yield name, is_control, state(key, pruned)
    for bits in section.audit_bits:
        name = f"weights rounded to {bits} bits"
        rounding = with_delta(lambda bound, b=bits: quantised(bound.model, b))
        yield name, False, state({"audit": name, "bits": bits}, rounding)
    steps = section.audit_steps
    tuning_name = f"{steps} benign fine-tuning steps"
    made: dict[str, Any] = {
        "rows": fingerprint(rows),
        "order": digest([row.id for row in rows]),
        "fit": asdict(_spec(run, rows)),
        "form": asdict(FORM),
    }

    def tuned(bound: BoundModel) -> AbstractContextManager[None]:
        return _fine_tuned(run, bound, rows)

    yield tuning_name, False, state({**made, "audit": tuning_name}, with_delta(tuned))
    beside = f"{tuning_name} on the untouched model"
    yield beside, True, state({**made, "audit": beside}, tuned)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _benign(run: Run) -> list[Example]:
    rows = [row for row in run.examples(*run.config.align.splits) if row.harm == "benign"]
    if not rows:
        raise EmptyCellError(
            "the audit fine-tunes on benign training rows, and there are none; set"
            " evaluate.audit: false or add benign rows to the train split."
        )
    wanted = run.config.evaluate.audit_steps * min(run.config.align.batch_size, len(rows))
    order = sorted(rows, key=lambda row: (share_of(row.id, "audit"), row.id))
    return order[:wanted]


def _spec(run: Run, rows: Sequence[Example]) -> FitSpec:
    section = run.config
    size = min(section.align.batch_size, len(rows))
    return FitSpec(
        epochs=section.evaluate.audit_steps,
        batch_size=size,
        micro_batch=size,
        learning_rate=section.align.learning_rate,
        warmup=0.0,
        schedule="constant",
        seed=section.seed,
        max_steps=section.evaluate.audit_steps,
        reduction="mean",
    )


@contextmanager
def _fine_tuned(run: Run, bound: BoundModel, rows: Sequence[Example]) -> Iterator[None]:
    """A LoRA of rank 8 on gate and up of every neuron, a few benign steps; undone afterwards."""
    spec = _spec(run, rows)
    size = spec.batch_size
    whole = bind(bound.model, units=[k for k in kinds_of(bound.model) if k in FEED_FORWARD])
    everything = NeuronSet.of({site: range(spot.width) for site, spot in whole.sites.items()})

    def batches(epoch: int) -> Sequence[TrainBatch]:
        parts = [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
        return [_batch(run, part) for part in parts]

    with tuning(whole, everything, FORM, seed=spec.seed) as deltas:
        fit(deltas, batches, spec)
    try:
        yield
    finally:
        undo(whole, deltas.sparse())


def _batch(run: Run, rows: Sequence[Example]) -> TrainBatch:
    batch = encode(run.loaded, rows, [row.target or "" for row in rows])
    return TrainBatch(batch.inputs, batch.labels, torch.ones(len(rows), dtype=torch.bool))


def _row(
    name: str, is_control: bool, columns: dict[str, Outcomes], groups: dict[str, str]
) -> AuditRow:
    rate = of_rate(columns[name], groups)
    change = grouped_difference(columns[ALIGNED], columns[name], groups)
    whole = grouped_difference(columns[UNTOUCHED], columns[ALIGNED], groups)
    survives = UNKNOWN
    if whole.high < 0 and name != UNTOUCHED and not is_control:
        survives = grouped_ratio(columns[UNTOUCHED], columns[name], columns[ALIGNED], groups)
    hits = list(columns[name].values()).count(True)
    return AuditRow(
        attack=name,
        control=is_control,
        hits=hits,
        n=rate.n,
        unscored=rate.unscored,
        **figures(rate),
        change=None if name == ALIGNED else or_null(change.difference),
        change_low=None if name == ALIGNED else or_null(change.low),
        change_high=None if name == ALIGNED else or_null(change.high),
        survives=or_null(survives.value),
        survives_low=or_null(survives.low),
        survives_high=or_null(survives.high),
    )

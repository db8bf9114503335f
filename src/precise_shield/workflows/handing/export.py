"""Hand an alignment on, behind the gate: a merged checkpoint, a PEFT adapter, or the delta."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from precise_shield.align.adapter import export_adapter
from precise_shield.align.export import PACKED, Card, export_merged
from precise_shield.align.lowrank import LowRank
from precise_shield.align.receipt import StoredReceipt
from precise_shield.align.sparse import SparseDelta, applied
from precise_shield.core.errors import ReceiptError, StoreError, UnsupportedModelError
from precise_shield.core.store import RunStore, must_be_free, read_json, readable_errors
from precise_shield.core.summary import Condition, GateFacts, Summary
from precise_shield.workflows.align.arms import Arm
from precise_shield.workflows.align.gate import EXPORTABLE, gate, require_gate, require_stronger
from precise_shield.workflows.base.config import load_config
from precise_shield.workflows.base.context import Run, started
from precise_shield.workflows.base.sections.gate import GateSection
from precise_shield.workflows.base.summary_file import read_summary
from precise_shield.workflows.handing.stamp import stamp

Kind = Literal["merged", "peft", "delta", "low_rank"]
"""`merged`: a whole checkpoint. `peft`: a LoRA adapter. `delta`: changed rows, old and new.
`low_rank`: a row-masked LoRA's factors, the smallest; can be applied and not undone."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    kind: Kind
    condition: str
    gate: GateFacts
    forced: bool


def export(
    folder: Path,
    out: Path,
    *,
    kind: Kind = "merged",
    condition: str = "aligned",
    device: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Exported:
    """Write the alignment of a finished run to `out`, if it passes the run's gate.

    Args:
        folder: folder of a finished `run`, with its `config.yaml` and `summary.json`.
        out: where to; it must not exist.
        kind: what is written.
        condition: name of the alignment in the summary.
        device: where the gate is measured; None takes the run's.
        force: write it although a limit is broken. A model that is weaker than its base beyond
            doubt is never written.
        quiet: no progress.

    Raises:
        StoreError: the run is not finished, or `out` exists.
        GateError: the alignment is worse than the stated limits.
        ReceiptError: the model is not the one that the run aligned, or the stored delta not the
            one that it trained.
        UnsupportedModelError: the base was quantised, and it is no PEFT adapter.
    """
    must_be_free(out)
    summary = read_summary(folder)
    where = [] if device is None else [f"model.device={device}"]
    run = started(load_config(folder / "config.yaml", where), folder, quiet=quiet)
    arm = arm_of(folder, summary, condition)
    if run.loaded.fingerprint != summary.model.fingerprint:
        raise ReceiptError(
            f"{summary.model.path} holds other weights than those that this run aligned; give"
            " the same revision, file and dtype."
        )
    if run.loaded.spec.quantise is not None and kind != "peft":
        raise UnsupportedModelError(PACKED)
    arm.delta().agrees(arm.stored.written, str(arm.delta_path))  # the gate takes stored answers
    facts = gate(run, arm, gated_under(folder, summary))
    if arm.receipt.form == "damped":
        require_stronger(facts)
    require_gate(facts, force=force)
    card = card_of(summary, arm, facts)
    with readable_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(run, arm, card, out, kind, facts)
    return Exported(out, kind, condition, facts, forced=not facts.passed)


def gated_under(folder: Path, summary: Summary) -> GateSection:
    """The limits that a finished run was gated under, whatever its `config.yaml` says by now.

    Raises:
        StoreError: the stage that holds them was changed after it was written.
    """
    for facts in summary.gate:
        path = folder / "stages" / "gate" / str(facts.key)
        if facts.key is None or not path.is_dir():
            continue
        made_by = read_json(path / "stage.json")["made_by"]
        if RunStore(folder).stage("gate", made_by).key != facts.key:
            raise StoreError(f"{path} was changed after it was written; run the gate again.")
        return GateSection.model_validate(made_by["limits"])
    config: Any = summary.config
    return GateSection.model_validate(config["align"]["gate"])


def arm_of(folder: Path, summary: Summary, condition: str) -> Arm:
    """An alignment of a finished run, by its name in the summary.

    Raises:
        StoreError: there is none of this name, or it is a control.
    """
    found: dict[str, Condition] = {c.name: c for c in summary.conditions if c.kind in EXPORTABLE}
    receipts = {each.condition: each for each in summary.receipts if each.delta is not None}
    if condition not in found or condition not in receipts:
        known = ", ".join(sorted(found.keys() & receipts.keys())) or "none"
        raise StoreError(
            f"{folder} has no alignment {condition!r}; it has {known}"
            " (controls and suppressed models are never exported). Run it again if it is older."
        )
    receipt = receipts[condition]
    path = folder / str(receipt.delta)
    delta = SparseDelta.load(path)
    return Arm(found[condition], delta.neurons, receipt, path, path.parent.name)


def _write(run: Run, arm: Arm, card: Card, out: Path, kind: Kind, facts: GateFacts) -> None:
    loaded, bound = run.loaded, run.bound
    stored = replace(arm.stored, receipt=arm.receipt.model_copy(update={"delta": None}))
    delta = arm.delta()
    small = arm.delta_path.with_name("lowrank.safetensors")
    factors = LowRank.load(small) if small.is_file() else None
    if kind == "merged":
        with applied(bound, delta):
            export_merged(
                bound,
                out,
                delta=delta,
                stored=stored,
                card=card,
                source=loaded.folder,
                words=loaded.tokenizer,
                finish=lambda written: stamp(written, facts),
            )
    elif kind == "peft":
        export_adapter(
            bound,
            out,
            delta=delta,
            factors=factors,
            stored=stored,
            card=card.markdown(stored, library="peft"),
            base=card.base,
            revision=card.base_revision,
            finish=lambda written: stamp(written, facts),
        )
    elif kind == "delta":
        replace(delta, recipe=passport(delta.recipe, stored, card, facts)).save(out)
    elif factors is None:
        raise UnsupportedModelError(
            "only a row-masked LoRA has a low-rank form; export the exact delta instead."
        )
    else:
        replace(factors, recipe=passport(factors.recipe, stored, card, facts)).save(out)


def passport(recipe: Any, stored: StoredReceipt, card: Card, facts: GateFacts) -> dict[str, Any]:
    """What a delta takes along, so that whoever applies it needs nothing else."""
    return {
        **recipe,
        "receipt": stored.content(),
        "gate": facts.model_dump(mode="json"),
        "card": {
            "title": card.title,
            "base": card.base,
            "base_revision": card.base_revision,
            "table": card.table,
            "recipe": dict(card.recipe),
        },
    }


def _base_text(arm: Arm) -> str:
    if arm.receipt.quantised is None:
        return ""
    return (
        f"\n\nFound, trained and measured on the base in {arm.receipt.quantised} (bitsandbytes)."
        " Load the base so; what this does to the unquantised base was not measured."
    )


def card_of(summary: Summary, arm: Arm, facts: GateFacts) -> Card:
    """The model card: measured table, gate, and how it was made, without paths of this machine."""
    config: Any = summary.config
    recipe = {
        "tool": f"precise-shield {summary.versions['precise-shield']}",
        "condition": f"{arm.condition.label}: {arm.condition.note}",
        "data": {"fingerprint": summary.data.fingerprint, "counts": dict(summary.data.counts)},
        "model_fingerprint": summary.model.fingerprint,
        "seeds": dict(summary.seeds),
        "versions": dict(summary.versions),
        "identify": config["identify"],
        "align": {k: v for k, v in config["align"].items() if k not in {"zero_shot", "search"}},
    }
    return Card(
        title=f"{summary.model.path}, strengthened",
        base=summary.model.path,
        base_revision=summary.model.revision,
        table=measured_table(summary, arm) + "\n\n" + gate_text(facts) + _base_text(arm),
        recipe=recipe,
    )


_MEASURES = {
    "attack_success": "attack success",
    "refusal_harmful": "harmful requests refused",
    "refusal_matched": "topic-matched benign requests refused",
    "refusal_ordinary": "other benign requests refused",
    "benign_correct": "benign answers right",
}


def measured_table(summary: Summary, arm: Arm) -> str:
    """Markdown: every pooled measure on test prompts, base, this alignment, and its controls."""
    controls = [c for c in summary.conditions if _beside(c, arm)]
    columns = [c for c in summary.conditions if c.kind == "base" or c.name == arm.condition.name]
    columns += controls[:1]
    rates = {
        (rate.condition, rate.measure): rate
        for rate in summary.rates
        if rate.language is None and rate.modality is None
    }
    head = ["measure", *(c.label for c in columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for measure, words in _MEASURES.items():
        found = [rates.get((c.name, measure)) for c in columns]  # type: ignore[arg-type]
        if any(rate is not None for rate in found):
            lines.append("| " + " | ".join([words, *map(_shown, found)]) + " |")
    lines.append("")
    lines.append(
        f"Test prompts, judge `{summary.judge}`; {summary.rule} 95 % intervals of single rates."
        f" {len(controls)} random control{'s' if len(controls) != 1 else ''} made alike"
        + (", the first shown." if len(controls) > 1 else ".")
    )
    return "\n".join(lines)


def _beside(control: Condition, arm: Arm) -> bool:
    if arm.condition.kind == "zero_shot":
        mine = control.name.startswith(f"{arm.condition.name}-random-")
        return control.kind == "zero_shot_random" and mine
    other = {"amplified": "random_amplified", "damped": "random_damped"}
    wanted = other.get(arm.condition.kind, "random_rows")
    scoped = wanted == "random_damped" and not control.name.rpartition("-")[2].isdigit()
    return control.kind == wanted and not scoped  # an edit at some positions is no such model


def _shown(rate: Any) -> str:
    if rate is None or rate.value is None:
        return "undefined" if rate is None else f"undefined (unscored {rate.unscored})"
    return f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}] n={rate.n} unscored={rate.unscored}"


def gate_text(facts: GateFacts) -> str:
    """The gate's figures as Markdown: measured on validation prompts, not on the test ones."""
    head = "passed" if facts.passed else "not passed; written with `--force`"
    lines = [f"Gate on {facts.split} prompts (n = {facts.aligned.harmful} harmful,"]
    lines[0] += f" {facts.aligned.benign} benign"
    lines[0] += f"; {facts.asked_of}): {head}." if facts.asked_of else f"): {head}."
    lines += [f"- {'kept' if each.kept else 'broken'}: {each.sentence}" for each in facts.limits]
    return "\n".join(lines)

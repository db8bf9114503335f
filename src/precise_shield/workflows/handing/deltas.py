"""Put a delta into a model on disk, or take it out again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from precise_shield.align.compose import (
    Member,
    compose,
    conflicts,
    holds,
    strange,
    without,
)
from precise_shield.align.export import Card, export_merged, write_model
from precise_shield.align.lowrank import LowRank
from precise_shield.align.receipt import StoredReceipt
from precise_shield.align.sparse import SparseDelta, no_silence
from precise_shield.align.sparse import apply as put_in
from precise_shield.align.sparse import undo as take_out
from precise_shield.core.errors import GateError, ReceiptError
from precise_shield.core.store import must_be_free
from precise_shield.core.summary import GateFacts
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.loading.model import LoadedModel
from precise_shield.workflows.align.gate import require_gate, require_stronger
from precise_shield.workflows.base.sections.model import ModelSection
from precise_shield.workflows.handing.delta_files import (
    opened,
    passport_of,
    read_delta,
    read_exact,
    receipt_of,
    receipt_or_none,
)
from precise_shield.workflows.handing.stamp import stamp


def apply(
    delta: Path,
    model: ModelSection,
    out: Path,
    *,
    beside: Sequence[Path] = (),
    force: bool = False,
) -> Path:
    """Write `model` with the changed rows of `delta` put in, bit for bit.

    Takes a delta, exact or low-rank, that `export` wrote: it carries its gate and receipt.

    Args:
        delta: the delta's file.
        model: its base model, or one that holds deltas of `beside`.
        out: folder to write; it must not exist.
        beside: exact deltas in the result too: in `model` already, or put in before; what is put
            in passes its own gate.
        force: although a limit is broken; with `beside`, although no gate saw all.

    Raises:
        StoreError: `out` exists, or the file is no delta that was exported.
        GateError: a delta that is put in broke a limit and `force` is off, or only weakens; or it
            damps and would not be alone.
        ReceiptError: another base or receipt, a delta in already, or two change the same slices.
    """
    must_be_free(out)
    found, others = read_delta(delta), [read_exact(path) for path in beside]
    card, stored, facts = passport_of(delta, found.recipe)
    _may_go_in(delta, stored, facts, alone=not others, force=force)
    if others and not force:
        raise GateError(
            f"{delta.name} and {len(others)} other{'s' * (len(others) > 1)} passed their gates"
            " alone; together no gate saw them. Write them all the same with --force."
        )
    loaded, bound = opened(model, found, *others)
    already = [other for other in others if holds(bound, other)]
    exact = _exactly(bound, found, already)
    _as_judged(bound, delta, exact, stored)
    if others:
        members = [
            _member(bound, path, other, inside=any(other is each for each in already), force=force)
            for path, other in zip(beside, others, strict=True)
        ]
        for other in reversed(already):
            take_out(bound, other)
        _write_together(loaded, bound, [*members, Member(delta.name, exact, stored)], card, out)
        return out
    put_in(bound, exact)
    export_merged(
        bound,
        out,
        delta=exact,
        stored=stored,
        card=card,
        source=loaded.folder,
        words=loaded.tokenizer,
        finish=partial(stamp, facts=facts),
    )
    return out


def _may_go_in(
    path: Path, stored: StoredReceipt, facts: GateFacts, *, alone: bool, force: bool
) -> None:
    """Let a delta into a model as its own gate allows."""
    if stored.receipt.form == "damped":
        require_stronger(facts)
        if not alone:
            raise GateError(
                f"{path.name} damps neurons, and only its own model was seen to be safer for it."
                " It goes into its base model alone, not beside others, and not even with --force."
            )
    require_gate(facts, force=force)


def _as_judged(bound: BoundModel, path: Path, delta: SparseDelta, stored: StoredReceipt) -> None:
    """Hold the values that would go in against their receipt, which is what the gate speaks of."""
    no_silence(bound, delta, "new")
    delta.agrees(stored.written, str(path))


def _member(
    bound: BoundModel, path: Path, delta: SparseDelta, *, inside: bool, force: bool
) -> Member:
    """One of several deltas; where it is not in the model already, its own gate lets it in."""
    if inside:
        return Member(path.name, delta, receipt_of(path, delta.recipe))
    _, stored, facts = passport_of(path, delta.recipe)
    _may_go_in(path, stored, facts, alone=False, force=force)
    _as_judged(bound, path, delta, stored)
    return Member(path.name, delta, stored)


def _exactly(
    bound: BoundModel, found: SparseDelta | LowRank, already: Sequence[SparseDelta]
) -> SparseDelta:
    """A low-rank delta multiplied out beside its own base, without or with what is in already."""
    if isinstance(found, SparseDelta):
        return found
    with without(bound, already):
        if found.fits(bound):
            return found.expand(bound)
    return found.expand(bound)


def _write_together(
    loaded: LoadedModel, bound: BoundModel, members: Sequence[Member], card: Card, out: Path
) -> None:
    proof = compose(bound, members)
    texts = {
        "README.md": card.markdown(members[-1].stored) + _also_in_it(members),
        "receipt.json": json.dumps(proof.content(), indent=1) + "\n",
    }
    write_model(bound, out, source=loaded.folder, words=loaded.tokenizer, texts=texts)


def _also_in_it(members: Sequence[Member]) -> str:
    rows = [
        f"- `{each.name}`: {each.stored.receipt.neurons:,} neurons,"
        f" {each.stored.receipt.changed_weights:,} weights"
        for each in members
    ]
    return (
        "\n## More than one alignment\n\nThese are in the weights together. The table above is of"
        f" `{members[-1].name}` alone; nobody measured them together.\n\n" + "\n".join(rows) + "\n"
    )


def undo(delta: Path, model: ModelSection, out: Path, *, beside: Sequence[Path] = ()) -> Path:
    """Write `model` with the rows of `delta` taken out again: its base model, bit for bit.

    Every tensor of the result is held against what the delta recorded of its base. Where other
    deltas stay in, name them in `beside`: without them the result has to be the base.

    Raises:
        StoreError: `out` exists, the file is no delta, or holds no old values (low-rank).
        ReceiptError: `model` does not hold the delta, or what is left is not its base.
    """
    must_be_free(out)
    found, others = read_exact(delta), [read_exact(path) for path in beside]
    names = [delta.name, *(path.name for path in beside)]
    loaded, bound = opened(model, found)
    for name, other in zip(names[1:], others, strict=True):
        if shared := conflicts(found, other):
            raise ReceiptError(
                f"{delta.name} and {name} both change {min(shared)}, so one lies on the other;"
                " take out first what was put in last, alone."
            )
    no_silence(bound, found, "old")
    take_out(bound, found)
    with without(bound, others):
        left = strange(bound, found, receipt_or_none(delta, found.recipe))
    if left:
        known = f" beside {', '.join(names[1:])}" if others else ""
        raise ReceiptError(
            f"with {delta.name} taken out, {len(left)} tensors are not its base model's{known},"
            f" the first {left[0]}. Another delta is in (name it with --with), or the model was"
            " changed otherwise. Nothing was written."
        )
    kept = "".join(f"\n- `{name}` is still in it" for name in names[1:])
    text = (
        f"# {Path(model.path).name} without its alignment\n\nThe rows of `{delta.name}` hold the"
        " base model's values again, bit for bit; every other tensor was compared with the base's"
        f" hash.\n{kept}\n"
    )
    write_model(bound, out, source=loaded.folder, words=loaded.tokenizer, texts={"README.md": text})
    return out

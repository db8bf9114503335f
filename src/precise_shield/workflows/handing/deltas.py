"""Put a delta into a model on disk, take it out again, and check what a receipt says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from precise_shield.align.adapter import check_adapter
from precise_shield.align.compose import (
    Composed,
    Member,
    compose,
    conflicts,
    holds,
    strange,
    without,
)
from precise_shield.align.export import Card, export_merged, write_model
from precise_shield.align.lowrank import LowRank, is_low_rank
from precise_shield.align.receipt import StoredReceipt
from precise_shield.align.slices import fingerprint
from precise_shield.align.sparse import SparseDelta, no_silence
from precise_shield.align.sparse import apply as put_in
from precise_shield.align.sparse import undo as take_out
from precise_shield.core.errors import ConfigError, GateError, ReceiptError, StoreError
from precise_shield.core.store import must_be_free, read_json
from precise_shield.core.summary import GateFacts
from precise_shield.models.architecture.bind import BoundModel, bind
from precise_shield.models.loading.model import LoadedModel, load
from precise_shield.workflows.align.gate import require_gate, require_stronger
from precise_shield.workflows.align.sealing import must_hold
from precise_shield.workflows.base.embedded import spec_of
from precise_shield.workflows.base.sections.model import ModelSection
from precise_shield.workflows.base.summary_file import read_summary
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
    found, others = read_delta(delta), [_exact(path) for path in beside]
    card, stored, facts = passport_of(delta, found.recipe)
    _may_go_in(delta, stored, facts, alone=not others, force=force)
    if others and not force:
        raise GateError(
            f"{delta.name} and {len(others)} other{'s' * (len(others) > 1)} passed their gates"
            " alone; together no gate saw them. Write them all the same with --force."
        )
    loaded, bound = _open(model, found, *others)
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
        return Member(path.name, delta, _stored(path, delta.recipe))
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
    found, others = _exact(delta), [_exact(path) for path in beside]
    names = [delta.name, *(path.name for path in beside)]
    loaded, bound = _open(model, found)
    for name, other in zip(names[1:], others, strict=True):
        if shared := conflicts(found, other):
            raise ReceiptError(
                f"{delta.name} and {name} both change {min(shared)}, so one lies on the other;"
                " take out first what was put in last, alone."
            )
    no_silence(bound, found, "old")
    take_out(bound, found)
    with without(bound, others):
        left = strange(bound, found, _receipt_or_none(delta, found.recipe))
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


def receipt_check(path: Path, model: ModelSection | None = None) -> list[str]:
    """Check receipts on disk; returns one sentence a receipt that holds.

    Args:
        path: a merged folder, an adapter's folder, a delta file, or a run's folder.
        model: the base model (or, for a delta, the merged one); an adapter needs it. Without
            one a delta is checked against its own receipt only.

    Raises:
        StoreError: there is no receipt here.
        ReceiptError: something moved that the receipt does not allow.
        ConfigError: an adapter without its base model.
    """
    if path.is_file():
        return [_check_delta(path, read_delta(path), model)]
    if (path / "adapter_config.json").is_file():
        if model is None:
            raise ConfigError("an adapter is checked against its base model; give it as MODEL.")
        stored = StoredReceipt.load(path / "receipt.json")
        _, bound = _open(model, stored)
        check_adapter(bound, path, stored)
        return [f"{path}: the adapter moves {_allowed(stored)} and nothing else"]
    if (path / "receipt.json").is_file() and (path / "config.json").is_file():
        content = read_json(path / "receipt.json")
        if "composed" in content:
            return [_check_composed(path, content)]
        stored = StoredReceipt.of(content, str(path / "receipt.json"))
        _, bound = _open(_moved(path, model), stored)
        stored.check(bound)
        stored.check_written(bound)
        return [f"{path}: {_allowed(stored)} are as aligned, every other weight as in the base"]
    if (path / "summary.json").is_file():
        return _check_run(path)
    raise StoreError(
        f"{path} holds no receipt.json beside a model or adapter, and is no run folder or delta."
    )


def _moved(path: Path, model: ModelSection | None) -> ModelSection:
    """The folder itself as a model, on the device that was asked for."""
    return (model or ModelSection(path="")).model_copy(update={"path": str(path)})


def _check_composed(path: Path, content: Any) -> str:
    try:
        proof = Composed.of(content)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: receipt.json cannot be read ({error}).") from error
    loaded = load(spec_of(ModelSection(path=str(path))))
    proof.check(BoundModel(loaded.model, {}))
    return (
        f"{path}: the slices of {len(proof.members)} alignments are as written, every other weight"
        " as in the base"
    )


def _check_run(folder: Path) -> list[str]:
    lines = []
    for receipt in read_summary(folder).receipts:
        if receipt.delta is None:
            continue
        path = folder / receipt.delta
        stored = StoredReceipt.load(path.with_name("receipt.json"))
        if stored.receipt.untouched_hash != receipt.untouched_hash:
            raise ReceiptError(f"{path.parent} holds another receipt than summary.json names.")
        _consistent(path, SparseDelta.load(path), stored)
        lines.append(f"{receipt.condition}: the delta holds {_allowed(stored)} and nothing else")
    if not lines:
        raise StoreError(f"{folder}: its summary names no delta; it was made by an older version.")
    return lines


def _check_delta(path: Path, found: SparseDelta | LowRank, model: ModelSection | None) -> str:
    stored = _stored(path, found.recipe)
    if model is None:
        if isinstance(found, SparseDelta):
            _consistent(path, found, stored)
        return f"{path}: the file holds {_allowed(stored)} and nothing else (give MODEL for more)"
    _, bound = _open(model, found)
    stored.check(bound)
    exact = found if isinstance(found, SparseDelta) else None
    if exact is None and isinstance(found, LowRank):
        exact = found.expand(bound)
    assert exact is not None
    _consistent(path, exact, stored)
    weights = dict(bound.model.named_parameters())
    base = all(fingerprint(weights[c.name]) == c.base for c in exact.changes if c.name in weights)
    if base:
        return f"{path}: {model.path} is its base; {_allowed(stored)} would change"
    stored.check_written(bound)
    return f"{path}: {model.path} holds it; {_allowed(stored)} changed and nothing else"


def _consistent(path: Path, delta: SparseDelta, stored: StoredReceipt) -> None:
    """The file's own values are those that its receipt was made for."""
    delta.agrees(stored.written, str(path))
    if delta.neurons != stored.neurons:
        raise ReceiptError(f"{path} is of other neurons than its receipt.")
    if delta.changed_weights() != stored.receipt.changed_weights:
        raise ReceiptError(
            f"{path} changes {delta.changed_weights():,} weights, its receipt says"
            f" {stored.receipt.changed_weights:,}."
        )


def _allowed(stored: StoredReceipt) -> str:
    receipt = stored.receipt
    whose = "the whole model" if receipt.everything else f"{receipt.neurons:,} neurons"
    return f"{receipt.changed_weights:,} weights of {whose}"


def read_delta(path: Path) -> SparseDelta | LowRank:
    """A delta file of either kind.

    Raises:
        StoreError: it is none.
    """
    return LowRank.load(path) if is_low_rank(path) else SparseDelta.load(path)


def _exact(path: Path) -> SparseDelta:
    found = read_delta(path)
    if isinstance(found, LowRank):
        raise StoreError(
            f"{path} holds factors and no old values, so it cannot be undone. Use the exact delta."
        )
    return found


def _receipt_or_none(path: Path, recipe: Any) -> StoredReceipt | None:
    beside = path.with_name("receipt.json").is_file()
    return _stored(path, recipe) if "receipt" in recipe or beside else None


def _stored(path: Path, recipe: Any) -> StoredReceipt:
    """The receipt inside an exported delta, or beside a run's own."""
    if "receipt" in recipe:
        return StoredReceipt.of(recipe["receipt"], str(path))
    return StoredReceipt.load(path.with_name("receipt.json"))


def passport_of(path: Path, recipe: Any) -> tuple[Card, StoredReceipt, GateFacts]:
    """What an exported delta says of itself: card, receipt and gate.

    Raises:
        StoreError: it does not say it, or its gate was changed or is of another alignment.
    """
    try:
        stored = StoredReceipt.of(recipe["receipt"], str(path))
        facts = GateFacts.model_validate(recipe["gate"])
        must_hold(facts, stored, path.name)
        return Card(**recipe["card"]), stored, facts
    except (KeyError, TypeError, ValidationError) as error:
        raise StoreError(
            f"{path} does not say how its model fared at the gate ({type(error).__name__}). Apply"
            " a delta that `precise-shield export --delta` wrote."
        ) from error


def _open(
    section: ModelSection, made: SparseDelta | LowRank | StoredReceipt, *more: SparseDelta
) -> tuple[LoadedModel, BoundModel]:
    """Load a model in the precision that a delta was made in, unless told otherwise.

    A base that was quantised is quantised again.

    It is bound where the neurons are: other towers, attention and experts included.
    """
    recipe = {} if isinstance(made, StoredReceipt) else made.recipe
    if section.dtype == "auto" and "dtype" in recipe:
        section = section.model_copy(update={"dtype": recipe["dtype"]})
    bits = made.receipt.quantised if isinstance(made, StoredReceipt) else recipe.get("quantise")
    if bits is not None:
        section = section.model_copy(update={"quantise": bits})
    loaded = load(spec_of(section))
    sites = {site for each in (made, *more) for site in each.neurons.units}
    towers, kinds = sorted({s.tower for s in sites}), sorted({s.kind for s in sites})
    return loaded, bind(loaded.model, towers, kinds)

"""Put a delta into a model on disk, take it out again, and check what a receipt says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from precise_shield.align.adapter import check_adapter
from precise_shield.align.export import Card, export_merged, write_model
from precise_shield.align.lowrank import LowRank, is_low_rank
from precise_shield.align.receipt import StoredReceipt
from precise_shield.align.slices import fingerprint
from precise_shield.align.sparse import SparseDelta
from precise_shield.align.sparse import apply as put_in
from precise_shield.align.sparse import undo as take_out
from precise_shield.core.errors import ConfigError, GateError, ReceiptError, StoreError
from precise_shield.core.summary import GateFacts
from precise_shield.models.bind import BoundModel, bind
from precise_shield.models.loading import LoadedModel, load
from precise_shield.workflows.embedded import spec_of
from precise_shield.workflows.gate import require_gate
from precise_shield.workflows.run import read_summary
from precise_shield.workflows.sections.model import ModelSection


def apply(delta: Path, model: ModelSection, out: Path, *, force: bool = False) -> Path:
    """Write `model` with the changed rows of `delta` put in, bit for bit.

    Takes a delta, exact or low-rank, that `export` wrote: it carries its gate and receipt.

    Raises:
        StoreError: `out` exists, or the file is no delta that was exported.
        GateError: the delta broke a limit and `force` is off, or only weakens.
        ReceiptError: `model` is another base, or has the delta in it already.
    """
    _free(out)
    found = _read(delta)
    card, stored, facts = _passport(delta, found.recipe)
    require_gate(facts, force=force)
    loaded, bound = _open(model, found)
    exact = found if isinstance(found, SparseDelta) else found.expand(bound)
    _no_silence(exact, "new")
    put_in(bound, exact)
    export_merged(
        bound,
        out,
        delta=exact,
        stored=stored,
        card=card,
        source=loaded.folder,
        words=loaded.tokenizer,
    )
    return out


def undo(delta: Path, model: ModelSection, out: Path) -> Path:
    """Write `model` with the rows of `delta` taken out again: its base model, bit for bit.

    Raises:
        StoreError: `out` exists, the file is no delta, or holds no old values (low-rank).
        ReceiptError: `model` does not hold the delta.
    """
    _free(out)
    found = _read(delta)
    if isinstance(found, LowRank):
        raise StoreError(
            f"{delta} holds factors and no old values, so it cannot be undone. Use the exact delta."
        )
    loaded, bound = _open(model, found)
    _no_silence(found, "old")
    take_out(bound, found)
    text = (
        f"# {Path(model.path).name} without its alignment\n\nThe rows of `{delta.name}` hold the"
        " base model's values again, bit for bit.\n"
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
        return [_check_delta(path, _read(path), model)]
    if (path / "adapter_config.json").is_file():
        if model is None:
            raise ConfigError("an adapter is checked against its base model; give it as MODEL.")
        stored = StoredReceipt.load(path / "receipt.json")
        _, bound = _open(model, None)
        check_adapter(bound, path, stored)
        return [f"{path}: the adapter moves {_allowed(stored)} and nothing else"]
    if (path / "receipt.json").is_file() and (path / "config.json").is_file():
        stored = StoredReceipt.load(path / "receipt.json")
        _, bound = _open(ModelSection(path=str(path)), None)
        stored.check(bound)
        stored.check_written(bound)
        return [f"{path}: {_allowed(stored)} are as aligned, every other weight as in the base"]
    if (path / "summary.json").is_file():
        return _check_run(path)
    raise StoreError(
        f"{path} holds no receipt.json beside a model or adapter, and is no run folder or delta."
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
    hashes = {change.name: fingerprint(change.new) for change in delta.changes}
    moved = sorted(
        n for n in hashes.keys() | stored.written if hashes.get(n) != stored.written.get(n)
    )
    if moved or delta.neurons != stored.neurons:
        raise ReceiptError(
            f"{path} does not hold what its receipt says; the first difference is in"
            f" {moved[0] if moved else 'the neurons'}. It was changed after it was written."
        )
    if delta.changed_weights() != stored.receipt.changed_weights:
        raise ReceiptError(
            f"{path} changes {delta.changed_weights():,} weights, its receipt says"
            f" {stored.receipt.changed_weights:,}."
        )


def _allowed(stored: StoredReceipt) -> str:
    receipt = stored.receipt
    return f"{receipt.changed_weights:,} weights of {receipt.neurons:,} neurons"


def _free(out: Path) -> None:
    if out.exists():
        raise StoreError(f"{out} exists and would be overwritten. Choose another name.")
    out.parent.mkdir(parents=True, exist_ok=True)


def _read(path: Path) -> SparseDelta | LowRank:
    return LowRank.load(path) if is_low_rank(path) else SparseDelta.load(path)


def _stored(path: Path, recipe: Any) -> StoredReceipt:
    """The receipt inside an exported delta, or beside a run's own."""
    if "receipt" in recipe:
        return StoredReceipt.of(recipe["receipt"], str(path))
    return StoredReceipt.load(path.with_name("receipt.json"))


def _passport(path: Path, recipe: Any) -> tuple[Card, StoredReceipt, GateFacts]:
    try:
        stored = StoredReceipt.of(recipe["receipt"], str(path))
        return Card(**recipe["card"]), stored, GateFacts.model_validate(recipe["gate"])
    except (KeyError, TypeError, ValidationError) as error:
        raise StoreError(
            f"{path} does not say how its model fared at the gate ({type(error).__name__}). Apply"
            " a delta that `precise-shield export --delta` wrote."
        ) from error


def _open(
    section: ModelSection, delta: SparseDelta | LowRank | None
) -> tuple[LoadedModel, BoundModel]:
    """Load a model in the precision that the delta was made in, unless told otherwise."""
    if delta is not None and section.dtype == "auto" and "dtype" in delta.recipe:
        section = section.model_copy(update={"dtype": delta.recipe["dtype"]})
    loaded = load(spec_of(section))
    return loaded, bind(loaded.model)


def _no_silence(delta: SparseDelta, side: str) -> None:
    """A neuron whose slices all become zero is suppressed, and no command writes that."""
    for change in delta.changes:
        after, before = (change.new, change.old) if side == "new" else (change.old, change.new)
        silenced = (after == 0).all(1) & (before != 0).any(1)
        if bool(torch.any(silenced)):
            raise GateError(
                f"{int(silenced.sum())} slices of {change.name} would become zero: that suppresses"
                " neurons, and a suppressed model is never written."
            )

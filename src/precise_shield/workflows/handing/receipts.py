"""Check on disk what a receipt says, of whatever an alignment was written as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from precise_shield.align.adapter import check_adapter
from precise_shield.align.compose import Composed
from precise_shield.align.lowrank import LowRank
from precise_shield.align.receipt import StoredReceipt
from precise_shield.align.slices import fingerprint
from precise_shield.align.sparse import SparseDelta
from precise_shield.core.errors import ConfigError, ReceiptError, StoreError
from precise_shield.core.store import read_json
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.loading.model import load
from precise_shield.workflows.base.embedded import spec_of
from precise_shield.workflows.base.sections.model import ModelSection
from precise_shield.workflows.base.summary_file import read_summary
from precise_shield.workflows.handing.delta_files import opened, read_delta, receipt_of


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
        _, bound = opened(model, stored)
        check_adapter(bound, path, stored)
        return [f"{path}: the adapter moves {_allowed(stored)} and nothing else"]
    if (path / "receipt.json").is_file() and (path / "config.json").is_file():
        content = read_json(path / "receipt.json")
        if "composed" in content:
            return [_check_composed(path, content)]
        stored = StoredReceipt.of(content, str(path / "receipt.json"))
        _, bound = opened(_moved(path, model), stored)
        stored.check(bound)
        stored.check_written(bound)
        return [f"{path}: {_allowed(stored)} are as aligned, every other weight as in the base"]
    if (path / "summary.json").is_file():
        return _check_run(path)
    if not path.exists():
        raise StoreError(f"there is no {path}; give a folder or file that `export` or `run` wrote.")
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
    stored = receipt_of(path, found.recipe)
    if model is None:
        if isinstance(found, SparseDelta):
            _consistent(path, found, stored)
        return f"{path}: the file holds {_allowed(stored)} and nothing else (give MODEL for more)"
    _, bound = opened(model, found)
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

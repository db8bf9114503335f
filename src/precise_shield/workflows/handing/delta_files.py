"""A delta's file: what is in it, what it says of itself, and the model that it goes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from precise_shield.align.export import Card
from precise_shield.align.lowrank import LowRank, is_low_rank
from precise_shield.align.receipt import StoredReceipt
from precise_shield.align.sparse import SparseDelta
from precise_shield.core.errors import StoreError
from precise_shield.core.summary import GateFacts
from precise_shield.models.architecture.bind import BoundModel, bind
from precise_shield.models.loading.model import LoadedModel, load
from precise_shield.workflows.align.sealing import must_hold
from precise_shield.workflows.base.embedded import spec_of
from precise_shield.workflows.base.sections.model import ModelSection


def read_delta(path: Path) -> SparseDelta | LowRank:
    """A delta file of either kind.

    Raises:
        StoreError: it is none.
    """
    return LowRank.load(path) if is_low_rank(path) else SparseDelta.load(path)


def read_exact(path: Path) -> SparseDelta:
    """A delta file that holds old values as well as new ones.

    Raises:
        StoreError: it is none, or a low-rank one.
    """
    found = read_delta(path)
    if isinstance(found, LowRank):
        raise StoreError(
            f"{path} holds factors and no old values, so it cannot be undone. Use the exact delta."
        )
    return found


def receipt_or_none(path: Path, recipe: Any) -> StoredReceipt | None:
    """The receipt inside a delta or beside it; None where there is none."""
    beside = path.with_name("receipt.json").is_file()
    return receipt_of(path, recipe) if "receipt" in recipe or beside else None


def receipt_of(path: Path, recipe: Any) -> StoredReceipt:
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


def opened(
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

"""Several deltas in one model: what they share, what is left without one, and one proof for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from precise_shield.align.receipt import Seal, StoredReceipt, verify
from precise_shield.align.slices import fingerprint, read_slices
from precise_shield.align.sparse import SparseDelta, applied, apply, expect, undo
from precise_shield.core.errors import ReceiptError
from precise_shield.models.architecture.bind import BoundModel


@dataclass(frozen=True)
class Member:
    """One of several deltas: its values, its receipt, and what people call it."""

    name: str
    delta: SparseDelta
    stored: StoredReceipt


def conflicts(first: SparseDelta, second: SparseDelta) -> dict[str, int]:
    """Slices that both change, per weight; those of weights cut along two dimensions all cross."""
    theirs = {change.name: change for change in second.changes}
    found = {}
    for change in first.changes:
        other = theirs.get(change.name)
        if other is None:
            continue
        shared = set(change.index) & set(other.index)
        count = len(shared) if change.dim == other.dim else len(change.index)
        if count:
            found[change.name] = count
    return found


def must_compose(members: Sequence[Member]) -> None:
    """Check that no two deltas change the same slice.

    Raises:
        ReceiptError: two do; every weight is counted, the first named.
    """
    for place, one in enumerate(members):
        for other in members[place + 1 :]:
            found = conflicts(one.delta, other.delta)
            if found:
                name = min(found)
                raise ReceiptError(
                    f"{one.name} and {other.name} both change {sum(found.values())} slices of"
                    f" {len(found)} weights, the first {found[name]} of {name}. Only deltas of"
                    " different neurons compose: train one beside the other, or take one of them."
                )


def holds(bound: BoundModel, delta: SparseDelta) -> bool:
    """Whether the delta is in the model: its new values, bit for bit."""
    try:
        expect(bound, delta, "new")
    except ReceiptError:
        return False
    return True


@contextmanager
def without(bound: BoundModel, deltas: Sequence[SparseDelta]) -> Iterator[None]:
    """The model with deltas taken out, the last first, for the length of the block.

    Raises:
        ReceiptError: the model does not hold one of them.
    """
    with ExitStack() as stack:
        for delta in reversed(deltas):
            undo(bound, delta)
            stack.callback(apply, bound, delta)
        yield


def strange(bound: BoundModel, delta: SparseDelta, stored: StoredReceipt | None) -> list[str]:
    """Tensors that are not the base model's, once the delta is out; empty for the base itself.

    The weights that the delta changes are hashed whole and held against the base's hashes in the
    file; all others against the receipt, if there is one.
    """
    weights = dict(bound.model.named_parameters())
    bases = {change.name: change.base for change in delta.changes}
    wrong = {name for name, base in bases.items() if fingerprint(weights[name]) != base}
    if stored is None:
        return sorted(wrong)
    return sorted(wrong | (moved_outside(bound, stored) - bases.keys()))


def moved_outside(bound: BoundModel, stored: StoredReceipt) -> set[str]:
    """Tensors that differ from a receipt outside its slices."""
    now = stored.sealed(bound).tensors
    was = stored.seal.tensors
    return {name for name in now.keys() | was.keys() if now.get(name) != was.get(name)}


@dataclass(frozen=True)
class Composed:
    """One proof for several deltas in one model: the content of its `receipt.json`."""

    slices: Mapping[str, tuple[int, tuple[int, ...]]]
    """Dimension and slices that any of them may change, by weight."""
    seal: Seal
    """Every tensor of the model with those slices left out."""
    written: Mapping[str, str]
    """SHA-256 of those slices with all deltas in."""
    members: tuple[Mapping[str, Any], ...]
    """The deltas' own receipts."""

    def check(self, bound: BoundModel) -> None:
        """Compare a model with the proof.

        Raises:
            ReceiptError: a tensor differs outside the slices, or a slice is not as written.
        """
        verify(self.seal, _sealed(bound, self.slices))
        now = _written(bound, self.slices)
        wrong = sorted(name for name in now if now[name] != self.written.get(name))
        if wrong:
            raise ReceiptError(
                f"the slices of {wrong[0]} are not what its {len(self.members)} alignments wrote."
                " The model was changed afterwards."
            )

    def content(self) -> dict[str, Any]:
        """Plain data for `receipt.json`."""
        return {
            "schema_version": 1,
            "composed": {name: [dim, list(ids)] for name, (dim, ids) in self.slices.items()},
            "untouched_sha256": dict(self.seal.tensors),
            "written_sha256": dict(self.written),
            "receipts": list(self.members),
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Composed:
        """Read `content` back."""
        slices = {n: (int(dim), tuple(ids)) for n, (dim, ids) in content["composed"].items()}
        return cls(
            slices,
            Seal(content["untouched_sha256"]),
            content["written_sha256"],
            tuple(content["receipts"]),
        )


def compose(bound: BoundModel, members: Sequence[Member]) -> Composed:
    """Put deltas into their base model, one after the other, and prove all of it.

    Each is checked against its own receipt: alone in the base model, or, where it was trained in
    a model that held the earlier ones, with those in. On an error the model is as it came.

    Raises:
        ReceiptError: two of them change the same slice, one does not fit, or something moved.
    """
    must_compose(members)
    slices: dict[str, tuple[int, tuple[int, ...]]] = {}
    for member in members:
        for change in member.delta.changes:
            _, earlier = slices.get(change.name, (change.dim, ()))
            slices[change.name] = (change.dim, tuple(sorted({*earlier, *change.index})))
    base = _sealed(bound, slices)
    with ExitStack() as stack:
        for member in members:
            with applied(bound, member.delta), ExitStack() as also:
                if moved_outside(bound, member.stored):
                    for other in members[: members.index(member)]:
                        also.enter_context(applied(bound, other.delta))
                member.stored.check(bound)
        for member in members:
            apply(bound, member.delta)
            stack.callback(undo, bound, member.delta)
        verify(base, _sealed(bound, slices))
        proof = Composed(
            slices,
            base,
            _written(bound, slices),
            tuple(member.stored.content() for member in members),
        )
        stack.pop_all()
    return proof


def _sealed(bound: BoundModel, slices: Mapping[str, tuple[int, tuple[int, ...]]]) -> Seal:
    saved = bound.model.state_dict(keep_vars=True).keys()
    tensors = {}
    for name, tensor in [*bound.model.named_parameters(), *bound.model.named_buffers()]:
        if name in slices:
            tensors[name] = fingerprint(tensor, *slices[name])
        elif name in saved:
            tensors[name] = fingerprint(tensor)
    return Seal(tensors)


def _written(
    bound: BoundModel, slices: Mapping[str, tuple[int, tuple[int, ...]]]
) -> dict[str, str]:
    weights = dict(bound.model.named_parameters())
    return {n: fingerprint(read_slices(weights[n], *at)) for n, at in slices.items()}

"""A gate's facts tied to the weights that they judged, and to the run that measured them."""

from __future__ import annotations

from pathlib import Path

from precise_shield.align.receipt import StoredReceipt
from precise_shield.core.errors import StoreError
from precise_shield.core.store import digest, read_json
from precise_shield.core.summary import GateFacts


def sealed(facts: GateFacts) -> GateFacts:
    """The same facts with a digest over them."""
    return facts.model_copy(update={"digest": _digest(facts)})


def must_hold(facts: GateFacts, stored: StoredReceipt, origin: str) -> None:
    """Check that a gate's facts are whole, follow from their figures, and judged this alignment.

    It finds mistakes and careless edits. Whoever writes figures, digest and all anew is not found
    out: see `must_be_of`.

    Raises:
        StoreError: they do not, are of another alignment, or of an older version.
    """
    if facts.digest is None or facts.judged is None:
        raise StoreError(
            f"{origin}: its gate does not say which weights it judged; an older version wrote it."
            " Export it again."
        )
    if facts.judged != stored.digest:
        raise StoreError(f"{origin}: its gate judged another alignment than its receipt is of.")
    if facts.digest != _digest(facts) or not all(limit.follows for limit in facts.limits):
        raise StoreError(f"{origin}: its gate was changed after it was measured; export it again.")


def must_be_of(facts: GateFacts, run: Path, origin: str) -> None:
    """Check a gate's facts against what the run that they come from has stored.

    Raises:
        StoreError: the run holds no such gate, or other figures.
    """
    path = run / "stages" / "gate" / str(facts.key) / "gate.json"
    ours = GateFacts.model_validate(read_json(path))
    same = {"base", "aligned", "weaker", "condition", "judged", "split", "groups", "apart"}
    if facts.model_dump(include=same) != ours.model_dump(include=same) or any(
        limit not in facts.limits for limit in ours.limits
    ):
        raise StoreError(f"{origin}: {path} holds other figures than its gate.")


def _digest(facts: GateFacts) -> str:
    return digest(facts.model_dump(mode="json", exclude={"digest"}, exclude_defaults=True))

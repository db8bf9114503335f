"""What an alignment was allowed to move, and the proof."""

from __future__ import annotations

from pydantic import Field

from precise_shield.core.summary.base import Part


class Receipt(Part):
    """What an alignment was allowed to move, and the proof that nothing else did."""

    condition: str
    neurons: int
    form: str
    rank: int
    trained_b_rows: int
    """Entries of the rows of B alone."""
    trained_with_a: int
    """Entries of A and the rows of B: all that the optimiser saw."""
    changed_weights: int
    """Weights that differ after merging."""
    model_parameters: int
    untouched_verified: bool
    """Every weight outside the chosen rows has the same hash before and after."""
    untouched_hash: str
    steps: int
    learning_rate: float
    final_loss: float | None
    delta: str | None = None
    """Where the changed rows lie, old and new: a path inside the run folder."""
    stopped: str | None = None
    """`early` where a validation cell ended the training before its last step, else `done`."""
    best_step: int | None = None
    """The step whose weights were kept; null without validation: the last."""
    validations: list[float] = Field(default_factory=list)
    """What each look of the early stop found; the lower the better."""
    own_targets: int = 0
    """Benign training rows that the base model's own answers were the targets of."""
    quantised: str | None = None
    """Bits of the base, `4bit` or `8bit`; hashes are then of the values that these stand for, and
    the changed rows were held beside them. None: the base was not quantised."""
    everything: bool = False
    """Every parameter could move: what is proved untouched is the saved buffers, if there are any,
    and every tensor's shape."""

"""How long, how fast and on what: the settings of a training run and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from precise_shield.align.losses import Reduction, TrainBatch
from precise_shield.core.errors import ConfigError

Schedule = Literal["constant", "linear", "cosine"]
Objective = Literal["nll", "dpo"]


Batches = Callable[[int], Sequence[TrainBatch]]
"""Encoded rows of an epoch, counted from 0; each item is a forward pass of at most `micro_batch`
rows. Equal epochs must give equal items, for a run that resumes asks again. May be lazy."""


@dataclass(frozen=True)
class FitSpec:
    """Settings of one run; the defaults are those of Precise Shield's sibling, *One Anchor*."""

    epochs: int = 3
    batch_size: int = 32
    """Rows an optimiser step."""
    micro_batch: int = 8
    """Rows a forward pass; `batch_size` is a multiple of it."""
    learning_rate: float = 8e-4
    warmup: float = 0.05
    """Share of all steps over which the learning rate rises to its full value."""
    schedule: Schedule = "linear"
    """What it does after that: stay, or fall to 0 at the last step."""
    weight_decay: float = 0.0
    """Decay of the deltas towards 0, so of the weights towards the base model."""
    clip: float | None = 1.0
    """Largest L2 norm of the gradient over all deltas; None does not clip."""
    seed: int = 42
    """Of dropout; rows are ordered by whoever makes the batches."""
    max_steps: int | None = None
    """Stop after this many steps; the schedule then ends there too."""
    reduction: Reduction = "sum"
    kl_weight: float = 0.0
    """Weight of KL(base ‖ tuned), nats a token, on the answers of benign rows."""
    objective: Objective = "nll"
    """`nll`: the answers' likelihood. `dpo`: pairs of rows, the answer to give before the one
    not to give, divided by the pairs of a step."""
    beta: float = 0.1
    """Of `dpo`, per nat."""
    validate_every: int = 0
    """Steps between validations; 0 validates at the end of each epoch."""
    patience: int = 2
    """Stop after this many validations in a row without a new best."""
    checkpoint_every: int = 50
    """Steps between checkpoints; the end of an epoch always makes one."""
    gradient_checkpointing: bool = False
    """Keep only what enters each block and run the block again in the backward pass: the same
    result, less memory, about a third more time."""
    sparing: bool = False
    """Compute norms and activation functions of the blocks again in the backward pass: equal
    losses, gradients to float32 rounding, less memory, a few per cent more time."""

    def __post_init__(self) -> None:
        counts = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "micro_batch": self.micro_batch,
            "max_steps": 1 if self.max_steps is None else self.max_steps,
            "patience": self.patience,
            "checkpoint_every": self.checkpoint_every,
        }
        low = [name for name, count in counts.items() if count < 1]
        if low:
            raise ConfigError(f"{low[0]} is {counts[low[0]]}; it must be at least 1.")
        if self.batch_size % self.micro_batch:
            raise ConfigError(
                f"batch_size {self.batch_size} is no multiple of micro_batch {self.micro_batch}."
            )
        if not 0 < self.learning_rate < math.inf or not 0 <= self.warmup < 1:
            raise ConfigError(
                f"learning_rate {self.learning_rate}, warmup {self.warmup}: the first must be"
                " above 0, the second a share in [0, 1)."
            )
        if min(self.weight_decay, self.kl_weight, self.validate_every) < 0:
            raise ConfigError("weight_decay, kl_weight and validate_every must not be negative.")
        if self.objective == "dpo" and (self.micro_batch % 2 or not self.beta > 0):
            raise ConfigError(
                f"micro_batch {self.micro_batch}, beta {self.beta}: pairs need an even number of"
                " rows a pass and a beta above 0."
            )
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip is {self.clip}; it must be above 0, or null for none.")

    @property
    def accumulate(self) -> int:
        """Forward passes an optimiser step."""
        return self.batch_size // self.micro_batch

    def total_steps(self, passes: int) -> int:
        """Optimiser steps of a run whose epochs have `passes` forward passes each."""
        steps = self.epochs * self.steps_an_epoch(passes)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def steps_an_epoch(self, passes: int) -> int:
        """Optimiser steps of one epoch; the last may be smaller than the others."""
        return -(-passes // self.accumulate)

    def rate_at(self, step: int, total: int) -> float:
        """Learning rate of the optimiser step `step`, counted from 0, of `total`."""
        rising = math.ceil(self.warmup * total)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.learning_rate
        gone = (step - rising) / max(1, total - rising)
        if self.schedule == "linear":
            return self.learning_rate * (1 - gone)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * gone))

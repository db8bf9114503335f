"""Talk to a model before and after its alignment, side by side and in memory only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from precise_shield.align.sparse import SparseDelta, applied
from precise_shield.core.errors import ConfigError, DataError, ReceiptError, StoreError
from precise_shield.core.images import open_image
from precise_shield.core.records import Example, Modality
from precise_shield.core.sites import NeuronSet
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.models.generation import generate
from precise_shield.workflows.arms import Arm
from precise_shield.workflows.context import Run
from precise_shield.workflows.export import arm_of
from precise_shield.workflows.judges import reopened
from precise_shield.workflows.plans import TURNED
from precise_shield.workflows.run import read_summary


@dataclass(frozen=True)
class Answers:
    """What the model says to one prompt, as it came and aligned."""

    before: str
    after: str
    cut: tuple[bool, bool]
    """Whether the token limit cut each of them off."""


@dataclass
class Chat:
    """One alignment of a finished run, asked one prompt at a time; prompts do not hang together."""

    run: Run
    arm: Arm
    tokens: int
    """Longest answer."""

    neurons_on: bool = True
    """Off: `switched` is held at zero in both models, at every position."""

    image: str | None = None
    """Picture that goes with each prompt until another one, or none, is attached."""

    _asked: int = field(default=0, init=False)

    @cached_property
    def delta(self) -> SparseDelta:
        """The changed rows, old and new; read once."""
        return self.arm.delta()

    @cached_property
    def frozen(self) -> bool:
        """The alignment froze the safety neurons and trained all others (`polarity: rest`)."""
        turned = self.arm.condition.kind in TURNED
        return turned and self.run.config.align.polarity == "rest"

    @cached_property
    def switched(self) -> NeuronSet:
        """What the switch holds at zero: the tuned neurons, or those that were frozen instead."""
        if not self.frozen:
            return self.arm.neurons
        every = {site: range(spot.width) for site, spot in self.run.bound.sites.items()}
        return NeuronSet.of(every) - self.arm.neurons

    @property
    def named(self) -> str:
        """What to call them."""
        return "frozen safety neurons" if self.frozen else "tuned neurons"

    def ask(self, prompt: str) -> Answers:
        """Answer a prompt with the base model and with the aligned one; likeliest tokens.

        Raises:
            DataError: the picture cannot be read, or the model sees none.
            EmptySetError: the neurons are off, but all of them are in the vision tower and
                there is no picture.
        """
        self._asked += 1
        name = f"chat-{self._asked}"
        modality: Modality = "text" if self.image is None else "text_dominant"
        example = Example(
            name, "und", modality, "benign", prompt, "test", group=name, image=self.image
        )
        said = []
        for condition in ("base", self.arm.condition.name):
            with self._state(condition):
                (answer,) = generate(
                    self.run.loaded, [example], condition=condition, max_new_tokens=self.tokens
                )
            said.append(answer)
        before, after = said
        return Answers(before.text, after.text, (before.finished is False, after.finished is False))

    def attach(self, path: str | None) -> None:
        """Show the prompts that follow this picture; None takes it away.

        Raises:
            DataError: the file is no picture, or the model sees none.
        """
        if path is not None:
            if not self.run.loaded.has_images:
                raise DataError(f"{self.run.config.model.path} is a text-only model.")
            open_image(path)
        self.image = path

    def switch(self) -> bool:
        """Turn the switched neurons off, or on again; returns whether they are on."""
        self.neurons_on = not self.neurons_on
        return self.neurons_on

    @contextmanager
    def _state(self, condition: str) -> Iterator[None]:
        """The model in one state, for the length of the block; then bit for bit as it came."""
        with self._delta(condition != "base"), self._neurons():
            yield

    @contextmanager
    def _delta(self, on: bool) -> Iterator[None]:
        if not on:
            yield
            return
        with applied(self.run.bound, self.delta):
            yield

    @contextmanager
    def _neurons(self) -> Iterator[None]:
        if self.neurons_on:
            yield
            return
        seen = NeuronSet.of(
            {
                site: units
                for site, units in self.switched.units.items()
                if site.tower == "text" or self.image is not None
            }
        )
        with intervening(self.run.bound, seen, suppress):
            yield


def chat(
    folder: Path,
    *,
    condition: str = "aligned",
    tokens: int | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Chat:
    """Open an alignment of a finished run for talking to.

    Args:
        folder: folder of a finished `run`, with its `config.yaml` and `summary.json`.
        condition: name of the alignment in the summary.
        tokens: longest answer; None takes the run's `evaluate.max_new_tokens`.
        device: where the model runs; None takes the run's.
        quiet: no progress.

    Raises:
        StoreError: the run is not finished, or has no alignment.
        ReceiptError: the model is not the one that the run aligned.
        ConfigError: `tokens` is below 1.
    """
    summary = read_summary(folder)
    if not any(receipt.delta for receipt in summary.receipts):
        raise StoreError(
            f"{folder} has no alignment to set beside its base model; run `precise-shield run`"
            " with its config.yaml."
        )
    arm = arm_of(folder, summary, condition)
    run = reopened(folder, [f"model.device={device}"] if device else [], quiet=quiet)
    limit = run.config.evaluate.max_new_tokens if tokens is None else tokens
    if limit < 1:
        raise ConfigError(f"an answer of {limit} tokens cannot be given; ask for 1 or more.")
    if run.loaded.fingerprint != summary.model.fingerprint:
        raise ReceiptError(
            f"{summary.model.path} holds other weights than those that this run aligned; give"
            " the run the same revision, file and dtype."
        )
    return Chat(run, arm, limit)

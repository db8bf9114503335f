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
from precise_shield.models.answers.generation import generate
from precise_shield.models.inputs.encoding import Turn
from precise_shield.models.inputs.history import too_many
from precise_shield.workflows.align.arms import Arm
from precise_shield.workflows.align.plans import TURNED
from precise_shield.workflows.answer.judges import reopened
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.summary_file import read_summary
from precise_shield.workflows.handing.export import arm_of


@dataclass(frozen=True)
class Answers:
    """What the model says to one prompt, as it came and aligned."""

    before: str
    after: str
    cut: tuple[bool, bool]
    """Whether the token limit cut each of them off."""

    forgotten: int = 0
    """Oldest turns that were left out of both conversations: they no longer fitted the context."""


@dataclass
class Chat:
    """A conversation with one alignment of a finished run, and the same with its base model.

    Each of the two goes on from its own answers.
    """

    run: Run
    arm: Arm
    tokens: int
    """Longest answer."""

    neurons_on: bool = True
    """Off: `switched` is held at zero in both models, at every position."""

    image: str | None = None
    """Picture that goes with the next prompt; it then stays where it is in the conversation."""

    single: bool = False
    """Each prompt is a conversation of its own; the picture goes with all that follow."""

    _asked: int = field(default=0, init=False)
    _past: list[tuple[Turn, Turn]] = field(default_factory=list, init=False)

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

        A prompt that fails is no part of the conversation.

        Raises:
            DataError: the picture cannot be read, the model sees none or not so many, or the
                prompt alone exceeds the context.
            LoadingError: the chat template takes no earlier turns.
            EmptySetError: the neurons are off, but all of them are in the vision tower and
                there is no picture.
        """
        self._asked += 1
        name = f"chat-{self._asked}"
        modality: Modality = "text" if self.image is None else "text_dominant"
        example = Example(
            name, "und", modality, "benign", prompt, "test", group=name, image=self.image
        )
        loaded = self.run.loaded
        gone = max(too_many(loaded, example, past, self.tokens) for past in self.histories)
        earlier = [turn.image for turn in self.histories[0][gone:]]
        sees = any(image is not None for image in (self.image, *earlier))
        said = []
        for condition, past in zip(("base", self.arm.condition.name), self.histories, strict=True):
            with self._state(condition, sees):
                (answer,) = generate(
                    loaded,
                    [example],
                    condition=condition,
                    max_new_tokens=self.tokens,
                    history=past[gone:],
                )
            said.append(answer)
        before, after = said
        if not self.single:
            turns = (Turn(prompt, answer.text, self.image) for answer in said)
            self._past = [*self._past[gone:], (next(turns), next(turns))]
            self.image = None
        cut = (before.finished is False, after.finished is False)
        return Answers(before.text, after.text, cut, gone)

    @property
    def histories(self) -> tuple[list[Turn], list[Turn]]:
        """The turns so far, oldest first, with the answers of the base model and of the aligned."""
        return [turn for turn, _ in self._past], [turn for _, turn in self._past]

    def reset(self) -> None:
        """Start a new conversation, without a picture; the switch stays as it is."""
        self._past, self.image = [], None

    def attach(self, path: str | None) -> None:
        """Show this picture with the prompt that follows; None takes it away again.

        Raises:
            DataError: the file is no picture, or the model sees none.
        """
        if path is not None:
            if not self.run.loaded.has_images:
                raise DataError(
                    f"{self.run.config.model.path} is a text-only model and sees no picture; ask in"
                    " words alone."
                )
            open_image(path)
        self.image = path

    def switch(self) -> bool:
        """Turn the switched neurons off, or on again; returns whether they are on."""
        self.neurons_on = not self.neurons_on
        return self.neurons_on

    @contextmanager
    def _state(self, condition: str, sees: bool) -> Iterator[None]:
        """The model in one state, for the length of the block; then bit for bit as it came."""
        with self._delta(condition != "base"), self._neurons(sees):
            yield

    @contextmanager
    def _delta(self, on: bool) -> Iterator[None]:
        if not on:
            yield
            return
        with applied(self.run.bound, self.delta):
            yield

    @contextmanager
    def _neurons(self, sees: bool) -> Iterator[None]:
        if self.neurons_on:
            yield
            return
        seen = NeuronSet.of(
            {
                site: units
                for site, units in self.switched.units.items()
                if site.tower == "text" or sees
            }
        )
        with intervening(self.run.bound, seen, suppress):
            yield


def chat(
    folder: Path,
    *,
    condition: str = "aligned",
    tokens: int | None = None,
    single: bool = False,
    device: str | None = None,
    quiet: bool = False,
) -> Chat:
    """Open an alignment of a finished run for talking to.

    Args:
        folder: folder of a finished `run`, with its `config.yaml` and `summary.json`.
        condition: name of the alignment in the summary.
        tokens: longest answer; None takes the run's `evaluate.max_new_tokens`.
        single: each prompt is a conversation of its own.
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
    return Chat(run, arm, limit, single=single)

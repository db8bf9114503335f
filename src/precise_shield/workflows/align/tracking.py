"""Where a training's figures go, step by step: a file of its own, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from precise_shield.core.errors import ConfigError
from precise_shield.core.parallel import crew

TrackerName = Literal["tensorboard", "wandb"]
Figures = Mapping[str, float | int | None]
"""One optimiser step; `step` counts from 1, and what is None was not measured."""

UNTRACKED = ("step", "total")


class Tracker(Protocol):
    """Takes a training's figures as they come."""

    def step(self, figures: Figures) -> None:
        """Take one step; steps come once each, in order, also after an interruption."""

    def close(self) -> None:
        """Write what is held back."""


class JsonLines:
    """One line a step in `metrics.jsonl`, written through at once."""

    def __init__(self, path: Path, done: int) -> None:
        """Open, and cut off what was written after the step that training goes on from."""
        kept = [line for line in _lines(path) if line["step"] <= done]
        part = path.with_name(path.name + ".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        part.replace(path)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def step(self, figures: Figures) -> None:
        self._file.write(json.dumps(dict(figures)) + "\n")
        self._file.flush()  # a checkpoint may follow, and no step up to it may be missing

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; what a kill tore off is left out."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


class TensorBoard:
    """Event files that `tensorboard --logdir` shows."""

    def __init__(self, folder: Path, done: int) -> None:
        made = import_module("torch.utils.tensorboard")
        self._writer: Any = made.SummaryWriter(str(folder), purge_step=done + 1)

    def step(self, figures: Figures) -> None:
        for name, value in figures.items():
            if value is not None and name not in UNTRACKED:
                self._writer.add_scalar(f"train/{name}", value, int(figures["step"] or 0))

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases: on this machine only, unless WANDB_MODE says `online`."""

    def __init__(self, folder: Path, key: str, name: str, settings: Mapping[str, Any]) -> None:
        wandb: Any = import_module("wandb")
        self._run: Any = wandb.init(
            project="precise-shield",
            id=key,
            name=name,
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            config=dict(settings),
            settings=wandb.Settings(silent=True),
        )

    def step(self, figures: Figures) -> None:
        shown = {
            f"train/{name}": value
            for name, value in figures.items()
            if value is not None and name not in UNTRACKED
        }
        self._run.log(shown, step=int(figures["step"] or 0))

    def close(self) -> None:
        self._run.finish()


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Refuse a tracker that is not installed, before anything is trained.

    Raises:
        ConfigError: it is not; the message says how to install it.
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"align.track names {name}, which is not installed. Install it with"
                f" `pip install 'precise-shield[{name}]'`, or leave it out: metrics.jsonl is"
                " written in any case."
            )


@contextmanager
def tracked(
    names: Sequence[TrackerName],
    folder: Path,
    *,
    done: int,
    key: str,
    name: str,
    settings: Mapping[str, Any],
) -> Iterator[Callable[[Figures], None]]:
    """Give each step inside the block to `metrics.jsonl` in `folder` and to the named trackers.

    Of several processes on one training only the leading one writes.

    Args:
        names: trackers besides the file.
        folder: of the training; trackers get folders of their own below it.
        done: steps that a checkpoint holds; what was written after them is taken again.
        key: of the training, by which a resumed run is known.
        name: what people call it.
        settings: what a tracker shows beside the figures.

    Raises:
        ConfigError: a tracker is not installed.
    """
    check_trackers(names)
    with ExitStack() as stack:
        trackers: list[Tracker] = []
        for each in ("file", *names) if crew().leads else ():
            one: Tracker
            if each == "file":
                one = JsonLines(folder / "metrics.jsonl", done)
            elif each == "tensorboard":
                one = TensorBoard(folder / "tensorboard", done)
            else:
                one = WandB(folder, key, name, settings)
            stack.callback(one.close)
            trackers.append(one)

        def step(figures: Figures) -> None:
            for tracker in trackers:
                tracker.step(figures)

        yield step

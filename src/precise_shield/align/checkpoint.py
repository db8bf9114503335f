"""The state of a run in one file: replaced in one step, read back bit for bit, no pickle."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from precise_shield.core.errors import StoreError

SCHEMA_VERSION = 1
FORMAT = "precise-shield-fit"


@dataclass
class Progress:
    """Where a run is. Randomness is drawn afresh from seed and step, so it needs no state."""

    step: int = 0
    """Optimiser steps taken."""
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    validations: list[float] = field(default_factory=list)
    validated: list[int] = field(default_factory=list)
    """Steps after which each validation was made."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """Parameters at the best validation; empty before the first."""
    finished: bool = False
    processes: int = 1
    """How many shared the steps: with others the same sums would round otherwise."""

    @property
    def stale(self) -> int:
        """Validations since the best one."""
        if not self.validations:
            return 0
        return len(self.validations) - 1 - self.validations.index(min(self.validations))

    @property
    def best_step(self) -> int | None:
        """The step of the best validation, the first of equals; None without one."""
        if not self.validated:
            return None
        return self.validated[self.validations.index(min(self.validations))]


def save_checkpoint(
    path: Path, run: str, progress: Progress, module: nn.Module, optimizer: torch.optim.AdamW
) -> None:
    """Write the file beside its place, flush it to disk, and move it there."""
    tensors = {f"best/{name}": value for name, value in progress.best.items()}
    for name, parameter in module.named_parameters():
        tensors[f"now/{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"adam/{name}/{key}"] = value
    facts = {key: value for key, value in asdict(progress).items() if key != "best"}
    header = json.dumps({"schema_version": SCHEMA_VERSION, "run": run, **facts})
    packed = save({k: v.cpu().contiguous() for k, v in tensors.items()}, {FORMAT: header})
    part = path.with_name(path.name + ".part")
    with part.open("wb") as out:
        out.write(packed)
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, path)


def checkpoint_step(path: Path) -> int:
    """How many steps a checkpoint holds; 0 where there is none, or none that can be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(json.loads((file.metadata() or {})[FORMAT])["step"])
    except (OSError, SafetensorError, ValueError, KeyError):
        return 0


def load_checkpoint(
    path: Path, run: str, module: nn.Module, optimizer: torch.optim.AdamW, processes: int = 1
) -> Progress:
    """Put parameters and optimiser state back; a missing file is the start of a run.

    Raises:
        StoreError: the file is broken, belongs to a run with other settings, or to an unfinished
            one of another number of processes.
    """
    if not path.exists():
        return Progress(processes=processes)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[FORMAT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise StoreError(
            f"{path} cannot be read as a checkpoint ({error}). Delete it to start afresh."
        ) from error
    if header.pop("schema_version") != SCHEMA_VERSION or header.pop("run") != run:
        raise StoreError(
            f"{path} was written by a run with other neurons, weights or settings. Delete it to"
            " start afresh, or name another checkpoint."
        )
    best = {k.removeprefix("best/"): v for k, v in tensors.items() if k.startswith("best/")}
    progress = Progress(best=best, **header)
    if progress.processes != processes and not progress.finished:
        raise StoreError(
            f"{path} holds {progress.step} steps that {progress.processes} processes shared, and"
            f" {processes} would go on with other roundings. Start with {progress.processes}"
            " (torchrun --nproc-per-node), or delete the file to train afresh."
        )
    if progress.step:
        restore(module, {name: tensors[f"now/{name}"] for name, _ in module.named_parameters()})
        for name, parameter in module.named_parameters():
            start = f"adam/{name}/"
            state = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            if state:
                step = state.pop("step")  # torch keeps the step count on CPU
                moved = {key: value.to(parameter.device) for key, value in state.items()}
                optimizer.state[parameter] = {"step": step, **moved}
    return progress


def restore(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Put parameter values back, bit for bit."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(values[name])


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter, on CPU."""
    return {name: p.detach().cpu().clone() for name, p in module.named_parameters()}

"""Timing of work on a machine that may be busy with other things."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROUNDS = 3
"""Times that work is done; each counts with its median."""

PATIENCE = 10.0
"""Seconds after which work is not begun again, so that a slow model is timed once."""

BUSY = 0.1
"""Share of the machine that other work takes from which it is said."""


@dataclass(frozen=True)
class Timing:
    """Seconds by the clock, and of the processor by all threads of this process."""

    wall: float
    cpu: float

    def __sub__(self, other: Timing) -> Timing:
        """What is left; never below nothing."""
        return Timing(max(0.0, self.wall - other.wall), max(0.0, self.cpu - other.cpu))

    def over(self, count: int | float) -> Timing:
        """A share of it."""
        return Timing(self.wall / count, self.cpu / count)


def moment(device: torch.device) -> Timing:
    """Both clocks, what was asked of a GPU being done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Timing(time.perf_counter(), time.process_time())


def timed(device: torch.device, works: Sequence[Callable[[], object]]) -> Timing:
    """All of the works, done in turn and again: each counts with its median, and these are added.

    Nothing warms up here: what is slow the first time has to be done before.
    """
    rounds: list[list[Timing]] = []
    begun = time.perf_counter()
    while len(rounds) < ROUNDS and (not rounds or time.perf_counter() - begun < PATIENCE):
        rounds.append([])
        for work in works:
            start = moment(device)
            work()
            rounds[-1].append(moment(device) - start)
    walls = (statistics.median(one.wall for one in same) for same in zip(*rounds, strict=True))
    cpus = (statistics.median(one.cpu for one in same) for same in zip(*rounds, strict=True))
    return Timing(sum(walls), sum(cpus))


class Neighbours:
    """How much of the machine other work has taken since this was made."""

    def __init__(self) -> None:
        self._start = _ticks()

    def share(self) -> float | None:
        """Of all processors, 0 to 1; None where the system does not say."""
        end = _ticks()
        if self._start is None or end is None:
            return None
        total, busy, own = (b - a for a, b in zip(self._start, end, strict=True))
        return min(1.0, max(0.0, (busy - own) / total)) if total > 0 else None


def _ticks() -> tuple[float, float, float] | None:
    """Seconds of all processors since the start: in all, busy, and busy for this process."""
    path = Path("/proc/stat")
    if not path.is_file() or "SC_CLK_TCK" not in os.sysconf_names:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are counted as users already
    line = path.read_text(encoding="ascii").partition("\n")[0].split()[1:9]
    ticks = [int(each) / os.sysconf("SC_CLK_TCK") for each in line]
    own = os.times()
    return sum(ticks), sum(ticks) - sum(ticks[3:5]), own.user + own.system


def clock_is_processor(device: torch.device) -> bool:
    """On a quiet machine the work takes as long as its processor time: one thread, no GPU."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def sentence(share: float | None, device: torch.device) -> str | None:
    """What a busy machine means for the times; None where it was quiet or does not say."""
    if share is None or share < BUSY:
        return None
    said = f"this machine was {share:.0%} busy with other work while batches were timed: "
    if clock_is_processor(device):
        return (
            said
            + "times are processor times, for a quiet machine; while it is busy it takes longer"
        )
    return said + "times are for a machine as busy as that; time again when it is quiet"

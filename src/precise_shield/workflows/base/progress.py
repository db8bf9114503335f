"""What a run says while it works: bars with time left on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[int], None]


@dataclass
class Reporter:
    """Talks to standard error, so that standard output stays for results."""

    quiet: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    started: float = field(default_factory=time.perf_counter)

    def say(self, text: str) -> None:
        """One plain line with the seconds since the start."""
        if not self.quiet:
            seconds = time.perf_counter() - self.started
            self.console.print(f"[dim]{seconds:7.1f}s[/dim]  {text}", soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Advance]:
        """Count towards `total` inside the block."""
        if self.quiet or total == 0:
            yield lambda _: None
        elif sys.stderr.isatty():
            columns = (
                TextColumn("          {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as progress:
                task = progress.add_task(what, total=total)
                yield lambda steps: progress.advance(task, steps)
        else:
            yield self._lines(what, total)

    def _lines(self, what: str, total: int) -> Advance:
        state, began = {"done": 0, "shown": time.perf_counter()}, time.perf_counter()

        def advance(steps: int) -> None:
            state["done"] += steps
            now = time.perf_counter()
            if now - state["shown"] >= 20:
                state["shown"] = now
                left = (now - began) / max(state["done"], 1) * (total - state["done"])
                self.say(f"{what}: {state['done']:.0f} of {total}, about {left:.0f} s left")

        return advance

"""Commands under `torchrun` or `accelerate launch`: who joins, who speaks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from precise_shield.core.errors import LaunchError, LostProcessError

SHARED = ("run", "demo", "identify", "explain", "verify", "align", "evaluate")
"""Commands that several processes can work on together."""


@dataclass
class Launch:
    """The processes that were started for one command, as their environment says."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Launch:
        """What `torchrun` says; one process where it says nothing."""
        if "RANK" not in environment or int(environment.get("WORLD_SIZE", "1")) < 2:
            return cls()
        return cls(
            int(environment["RANK"]),
            int(environment["WORLD_SIZE"]),
            int(environment.get("LOCAL_RANK", "0")),
        )

    @property
    def speaks(self) -> bool:
        """Whether this process prints results."""
        return self.rank == 0

    @contextmanager
    def joined(self, words: Sequence[str]) -> Iterator[None]:
        """Join the other processes for the block; `words` are the command line's.

        Raises:
            LaunchError: the command works in one process alone, or there are too few GPUs.
        """
        if self.size == 1:
            yield
            return
        command = next((word for word in words if not word.startswith("-")), "")
        if command not in SHARED:
            raise LaunchError(
                f"{command or 'this'} works in one process; start it without torchrun. Several"
                f" processes can {', '.join(SHARED)}."
            )
        from precise_shield.models.holding.launching import join, leave

        met = join(self.rank, self.size, self.local_rank)
        try:
            yield
        except SystemExit as end:  # how a command line ends, well or not
            if met and not end.code:
                leave()
            raise
        if met:
            leave()

    @contextmanager
    def telling(self, error: Exception) -> Iterator[bool]:
        """Yields whether this process says what went wrong: the first that fails, nobody else.

        The others stay until it has been said, for a launcher ends all when one has ended.
        """
        if self.size == 1 or isinstance(error, LaunchError | LostProcessError):
            yield self.size == 1 or (self.speaks and isinstance(error, LaunchError))
            return
        from precise_shield.models.holding.launching import fails_first, has_said, hear

        first = fails_first()
        yield first
        (has_said if first else hear)()


def launch() -> Launch:
    """The launch that this process is part of."""
    return Launch.of(os.environ)

"""What one unit of work costs, by the clock and in processor time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from precise_shield.workflows.plan.timing import Timing
from precise_shield.workflows.plan.work import Work

NOTHING = Timing(0.0, 0.0)


@dataclass(frozen=True)
class Price:
    """What one unit of work costs; `problem` says why it is not known."""

    seconds: float | None = None
    """Of a row, prompt or step; of an answer, all but its further tokens."""

    token: float = 0.0
    """Seconds of each further token of an answer."""

    ends: int | None = None
    """Tokens of the longest of some answers that all ended by themselves; None where one did not,
    and an answer counts at the full length that it may take."""

    cpu: float | None = None
    cpu_token: float = 0.0
    """The same as `seconds` and `token`, in processor time of all threads."""

    once: Timing = NOTHING
    """What comes on top of all items together: of rows finding the size of a batch, of steps what a
    training does around them."""

    peak_mib: float | None = None
    """Highest memory, weights included."""

    batch: str = ""
    problem: str = ""

    def of(self, work: Work) -> float | None:
        """Estimated seconds of one unit of `work`."""
        return None if self.seconds is None else self.seconds + self.token * self._further(work)

    def cpu_of(self, work: Work) -> float | None:
        """Its processor time."""
        return None if self.cpu is None else self.cpu + self.cpu_token * self._further(work)

    def _further(self, work: Work) -> int:
        tokens = work.tokens if self.ends is None else min(work.tokens, self.ends)
        return max(0, tokens - 1)

    def on_a_quiet_machine(self) -> Price:
        """With processor times for those by the clock."""
        if self.cpu is None:
            return self
        once = replace(self.once, wall=self.once.cpu)
        return replace(self, seconds=self.cpu, token=self.cpu_token, once=once)


def priced(
    first: Timing, token: Timing = NOTHING, *, ends: int | None = None, batch: str = ""
) -> Price:
    """A price from what was timed: of an item, and of each further token."""
    return Price(first.wall, token.wall, ends, first.cpu, token.cpu, batch=batch)

"""A pass over the probing data, cut among the processes of a launch and put together again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from precise_shield.core.errors import ConfigError
from precise_shield.core.parallel import Crew, crew
from precise_shield.core.store import Stage
from precise_shield.identify.stats import progress_of
from precise_shield.identify.streaming import Checkpoint

Parts = list[list[int]]


def share_of(parts: Callable[[int], Parts], sharded: bool) -> Callable[[int], Parts]:
    """This process's batches; a sharded model runs equally often everywhere, so some are empty."""
    team = crew()

    def mine(batch_size: int) -> Parts:
        every = parts(batch_size)
        own = team.mine(every)
        most = -(-len(every) // team.size)
        return own + [[] for _ in range(most - len(own))] if sharded else own

    return mine


def checkpoint_of(
    stage: Stage, seconds: float, sharded: bool
) -> tuple[Checkpoint | None, int | None]:
    """Where this process saves its unfinished share, and the batch size it was begun with.

    A pass that another number of processes began is begun anew: its shares were cut otherwise. A
    sharded model's pass is not saved: the processes save at different batches.
    """
    if sharded:
        return None, None
    team = crew()
    path = _unfinished(stage, team)
    for other in stage.folder.glob("unfinished*.safetensors"):
        if team.leads and _parts(other) != team.size:
            other.unlink()
    team.wait()
    progress = progress_of(path) if path.is_file() else None
    begun = {size for size in team.gather((progress or {}).get("batch_size")) if size}
    if len(begun) > 1:
        path.unlink(missing_ok=True)
        begun = set()
    return Checkpoint(path, seconds), min(begun, default=None)


def drop_unfinished(stage: Stage) -> None:
    """Throw away what unfinished shares left; the whole is written."""
    for path in stage.folder.glob("unfinished*.safetensors"):
        path.unlink()


def check_sharded(quantity: str) -> None:
    """Passes over one example's blocks are as many as the example asks for.

    Raises:
        ConfigError: the score needs such passes.
    """
    if quantity.startswith("deactivation"):
        raise ConfigError(
            "exact deactivation runs a sharded model unequally often in its processes; choose"
            " another identify.score, or model.shard: none."
        )


def stated(batch_size: int | None) -> None:
    """Processes that share one model cannot try out how much fits.

    Raises:
        ConfigError: no batch size was given.
    """
    if batch_size is None:
        raise ConfigError(
            "with model.shard: fsdp the processes cannot try out which batch fits; set"
            " identify.batch_size, 4 for a start."
        )


def _unfinished(stage: Stage, team: Crew) -> Path:
    name = "unfinished" if team.size == 1 else f"unfinished-{team.rank}-of-{team.size}"
    return stage.path(f"{name}.safetensors")


def _parts(path: Path) -> int:
    """How many processes had cut the pass that left this file."""
    return int(path.stem.rpartition("-of-")[2]) if "-of-" in path.stem else 1

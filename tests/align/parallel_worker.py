"""What each of two processes runs: trainings, a whole run of the command line, and a failure."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from align_tiny import batch, build, chosen, cut, weights
from safetensors.torch import save_file
from torch import distributed

from precise_shield.align.delta import DirectUnits, LoraRows, tuning
from precise_shield.align.fit import FitSpec, fit
from precise_shield.align.frozen import CacheSpec
from precise_shield.align.losses import TrainBatch
from precise_shield.cli import main as command
from precise_shield.core.errors import NumericError
from precise_shield.core.sites import NeuronSet
from precise_shield.identify import streaming
from precise_shield.models.holding.held import is_sharded, share_blocks, whole
from precise_shield.models.holding.launching import join
from precise_shield.models.passes.decoder import blocks

FORMS = {"lora": LoraRows(rank=3, dropout=0.3), "direct": DirectUnits()}
SPEC = FitSpec(
    epochs=3,
    batch_size=3,
    micro_batch=1,
    learning_rate=1e-2,
    warmup=0.0,
    clip=0.1,
    kl_weight=0.1,
    sparing=True,
)
"""Rows of unequal length, an odd number of passes a step and a last step that is smaller."""


HOW = ("whole", "sharded", "kept", "kept-sharded")
"""Each process with the model, or with a share of every block; and so from a cache."""


def train(
    form: str, how: str, folder: Path | None = None, checkpoint: Path | None = None
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Layers above the first and rows that change places, where something can be kept; `folder`
    None keeps nothing."""
    bound = build("llama")
    if how.endswith("sharded"):
        share_blocks(blocks(bound), torch.device("cpu"))
        assert is_sharded(bound.model)
    neurons, cache = chosen(bound), None
    if how.startswith("kept"):
        neurons = NeuronSet.of({site: ids for site, ids in neurons.units.items() if site.layer})
    if how.startswith("kept") and folder is not None:
        cache = CacheSpec(folder / f"cache-{how}" if form == "lora" else None, form)

    def batches(epoch: int) -> list[TrainBatch]:
        if not how.startswith("kept"):
            return cut(batch(bound, epoch), 1)
        rows = cut(batch(bound), 1)
        return rows[epoch:] + rows[:epoch]

    with tuning(bound, neurons, FORMS[form], seed=0) as deltas:
        done = fit(deltas, batches, SPEC, checkpoint=checkpoint, cache=cache)
    return {name: whole(value) for name, value in weights(bound).items()}, list(done.losses)


def typed(*words: str) -> int:
    """The exit code of a command line."""
    sys.argv = ["precise-shield", *words]
    try:
        command()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    join(rank, 2, rank)
    for form in FORMS:
        for how in HOW:
            held, losses = train(form, how, folder, folder / f"{form}-{how}.ckpt")
            tensors = {name: value.contiguous() for name, value in held.items()}
            path = folder / f"{form}-{how}-{rank}.safetensors"
            save_file(tensors | {"losses": torch.tensor(losses, dtype=torch.float64)}, path)
    shared = [str(folder / "config.yaml"), "--out", str(folder / "run")]
    assert typed("run", *shared, "--json") == 0
    again = [shared[0], "--out", str(folder / "shares"), "--set", "model.shard=fsdp"]
    assert typed("run", *again, "--quiet") == 0
    distributed.barrier()
    (folder / f"well-{rank}").touch()
    if rank == 1:

        def broken(*_: object) -> None:
            raise NumericError("planted in the second process.")

        streaming.step = broken
    sys.exit(typed("identify", *shared, "--set", "seed=1"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))

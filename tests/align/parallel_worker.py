"""What each of several processes runs: the same training, its share of every step."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from align_tiny import batch, build, chosen, cut, weights
from safetensors.torch import save_file
from torch import distributed

from precise_shield.align.delta import DirectUnits, LoraRows, tuning
from precise_shield.align.fit import FitSpec, fit

FORMS = {"lora": LoraRows(rank=3, dropout=0.3), "direct": DirectUnits()}
SPEC = FitSpec(
    epochs=3, batch_size=3, micro_batch=1, learning_rate=1e-2, warmup=0.0, clip=0.1, kl_weight=0.1
)
"""Rows of unequal length, an odd number of passes a step and a last step that is smaller."""


def train(form: str, checkpoint: Path | None = None) -> tuple[dict[str, torch.Tensor], list[float]]:
    bound = build("llama")
    with tuning(bound, chosen(bound), FORMS[form], seed=0) as deltas:
        done = fit(deltas, lambda epoch: cut(batch(bound, epoch), 1), SPEC, checkpoint=checkpoint)
    return weights(bound), list(done.losses)


def main(folder: Path) -> None:
    distributed.init_process_group("gloo")
    for form in FORMS:
        held, losses = train(form, folder / f"{form}.checkpoint")
        tensors = {name: value.contiguous() for name, value in held.items()}
        path = folder / f"{form}-{distributed.get_rank()}.safetensors"
        save_file(tensors | {"losses": torch.tensor(losses, dtype=torch.float64)}, path)
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))

"""Answers a second: batched with length sorting, beside the loop over single prompts.

    python benchmarks/generate.py                  # the embedded model, about a minute
    python benchmarks/generate.py --model FOLDER   # any other, on the embedded world's prompts

The variants take turns over the same chunks of prompts, so that a busy machine slows all alike.
Answers are compared before any speed is printed; greedy answers may part where two tokens are
equally likely up to rounding, and such prompts are counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from precise_shield.core.records import Example
from precise_shield.data.manifest import load as load_manifest
from precise_shield.models.answers.generation import generate
from precise_shield.models.inputs.encoding import encode
from precise_shield.models.loading.model import LoadedModel, load
from precise_shield.models.loading.spec import ModelSpec
from precise_shield.sandbox.manifest import write_manifest
from precise_shield.workflows.base.embedded import MODELS

Answer = Callable[[list[Example]], list[str]]


def ours(loaded: LoadedModel, size: int, limit: int) -> Answer:
    def answer(rows: list[Example]) -> list[str]:
        said = generate(loaded, rows, condition="x", max_new_tokens=limit, batch_size=size)
        return [each.text for each in said]

    return answer


def loop(loaded: LoadedModel, limit: int) -> Answer:
    """What most evaluation scripts do: the library's `generate`, one prompt at a time."""

    def answer(rows: list[Example]) -> list[str]:
        texts, model = [], loaded.model
        for row in rows:
            batch: dict[str, Any] = dict(encode(loaded, [row]).inputs)
            batch.pop("position_ids", None)
            with torch.inference_mode():
                out = model.generate(
                    **batch,
                    max_new_tokens=limit,
                    do_sample=False,
                    eos_token_id=list(loaded.stop_ids),
                    pad_token_id=loaded.pad_id,
                )
            new = out[0, batch["input_ids"].shape[1] :]
            texts.append(loaded.tokenizer.decode(new, skip_special_tokens=True).strip())
        return texts

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--prompts", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_manifest(Path(folder), per_cell={"test": 20})
        rows = [row for row in load_manifest(manifest).examples if row.modality != "image_dominant"]
        loaded = load(ModelSpec(str(MODELS.get(args.model, args.model)), device="cpu"))
        if not loaded.has_images:
            rows = [row for row in rows if row.image is None]
        step = max(1, len(rows) // args.prompts)
        rows = rows[::step][: args.prompts]
        variants = {
            "loop over single prompts": loop(loaded, args.tokens),
            "ours, batch 1": ours(loaded, 1, args.tokens),
            f"ours, batch {args.batch}": ours(loaded, args.batch, args.tokens),
        }
        for answer in variants.values():
            answer(rows[:2])  # warm up
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        said: dict[str, list[str]] = {name: [] for name in variants}
        for start in range(args.rounds):
            part = rows[start :: args.rounds]
            for name, answer in variants.items():
                began = time.perf_counter()
                said[name] += answer(part)
                seconds[name].append((time.perf_counter() - began) / len(part))
    names = list(variants)
    for name in names[1:]:
        same = sum(a == b for a, b in zip(said[names[0]], said[name], strict=True))
        print(f"{name}: {same} of {len(rows)} answers equal the loop's")
    base = statistics.median(seconds[names[0]])
    print(f"\n{'variant':28}{'answers/s':>12}{'ratio':>8}")
    for name in names:
        each = statistics.median(seconds[name])
        print(f"{name:28}{1 / each:12.1f}{base / each:8.2f}")


if __name__ == "__main__":
    main()

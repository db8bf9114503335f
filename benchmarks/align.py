"""Cost of one training step: chosen neurons alone, beside what people do today.

    python benchmarks/align.py                 # SmolLM2-135M's shape, about ten minutes
    python benchmarks/align.py --quick         # a small shape, for trying out

Every variant is a process of its own, so that memory is its own; the driver lets them take one
step each in turn (A B C A B C), so that a busy machine slows all of them alike. Same weights,
batch, optimiser and loop; losses are compared before any speed is printed. PEFT is used where
it is installed. Times are medians; memory is the peak over what the loaded model takes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from precise_shield.align.delta import DirectUnits, LoraRows, tuning
from precise_shield.align.losses import IGNORE, TrainBatch, answers
from precise_shield.core.controls import matched_random
from precise_shield.core.sites import NeuronSet
from precise_shield.models.bind import BoundModel, bind

SHAPES = {
    "full": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                 num_attention_heads=9, num_key_value_heads=3, vocab_size=49152),
    "quick": dict(hidden_size=128, intermediate_size=512, num_hidden_layers=6,
                  num_attention_heads=4, num_key_value_heads=2, vocab_size=8192),
}  # fmt: skip
ROWS, LENGTH, ANSWER, SHARE, RATE, RANK = 4, 96, 32, 0.02, 1e-3, 8

VARIANTS = {
    "all gradients, masked": ("all", "hf"),
    "FFN gradients, masked": ("ffn", "hf"),
    "PEFT LoRA, gate+up+down": ("peft_all", "hf"),
    "PEFT LoRA, gate+up": ("peft_ffn", "hf"),
    "PEFT SHiRA, whole rows": ("shira", "hf"),
    "ours, direct": ("direct", "hf"),
    "ours, row-masked LoRA": ("rows", "hf"),
    "PEFT LoRA, gate+up, answer head": ("peft_ffn", "answers"),
    "ours, direct, answer head": ("direct", "answers"),
    "ours, row-masked LoRA, answer head": ("rows", "answers"),
}
EQUAL = (
    ("all gradients, masked", "FFN gradients, masked"),
    ("all gradients, masked", "ours, direct"),
    ("ours, direct", "ours, direct, answer head"),
    ("ours, row-masked LoRA", "ours, row-masked LoRA, answer head"),
)


def resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def load(shape: str) -> BoundModel:
    torch.manual_seed(0)
    config = hf.LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, bos_token_id=None)
    return bind(hf.LlamaForCausalLM(config).eval())


def neurons_of(bound: BoundModel) -> NeuronSet:
    widths = {site: spot.width for site, spot in bound.sites.items()}
    none = NeuronSet.of({site: range(int(SHARE * width)) for site, width in widths.items()})
    return matched_random(none, widths, seed=0)


def batch(shape: str) -> TrainBatch:
    generator = torch.Generator().manual_seed(1)
    size = (ROWS, LENGTH)
    ids = torch.randint(3, int(SHAPES[shape]["vocab_size"]), size, generator=generator)
    labels = ids.clone()
    labels[:, : LENGTH - ANSWER] = IGNORE
    return TrainBatch({"input_ids": ids}, labels, torch.zeros(ROWS, dtype=torch.bool))


def masks(bound: BoundModel, neurons: NeuronSet) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for site, ids in neurons.units.items():
        for own in bound.sites[site].owned:
            mask = torch.zeros(own.weight.shape, dtype=torch.bool)
            found[own.name] = mask.index_fill_(own.dim, torch.tensor(ids) + own.offset, True)
    return found


def literal(bound: BoundModel, neurons: NeuronSet, everything: bool) -> list[nn.Parameter]:
    """The papers' literal form: full gradients times a mask."""
    allowed, learning = masks(bound, neurons), []
    for name, parameter in bound.model.named_parameters():
        parameter.requires_grad_(everything or name in allowed)
        if name in allowed:
            parameter.register_hook(lambda grad, m=allowed[name]: grad * m)
        elif everything:
            parameter.register_hook(torch.zeros_like)
        if parameter.requires_grad:
            learning.append(parameter)
    return learning


def peft_model(bound: BoundModel, neurons: NeuronSet, kind: str) -> tuple[nn.Module, list[Any]]:
    import peft

    targets = ["gate_proj", "up_proj"] + ([] if kind == "peft_ffn" else ["down_proj"])
    if kind == "shira":
        allowed = masks(bound, neurons)

        def whole_rows(layer: nn.Module, r: int, **_: Any) -> Tensor:
            """Our slices, padded with the first free entries to the size SHiRA insists on."""
            name = next(n for n, p in bound.model.named_parameters() if p is layer.weight)
            flat = allowed[name].flatten().float()
            free = (flat == 0).nonzero().flatten()
            flat[free[: r * sum(layer.weight.shape) - int(flat.sum())]] = 1
            return flat.view_as(layer.weight)

        width, hidden = next(iter(allowed.values())).shape
        rank = -(-int(next(iter(allowed.values())).sum()) // (width + hidden))
        config = peft.ShiraConfig(r=rank, target_modules=targets, mask_type="random")
        config.mask_fn = whole_rows
    else:
        config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=targets)
    model = peft.get_peft_model(bound.model, config)
    return model, [p for p in model.parameters() if p.requires_grad]


def prepared(
    stack: ExitStack, shape: str, kind: str, head: str
) -> tuple[list[nn.Parameter], Callable[[], Tensor]]:
    bound, rows = load(shape), batch(shape)
    neurons, model = neurons_of(bound), None
    if kind in ("all", "ffn"):
        learning = literal(bound, neurons, kind == "all")
    elif kind in ("direct", "rows"):
        form = DirectUnits() if kind == "direct" else LoraRows(RANK, 2.0 * RANK, 0.0)
        deltas = stack.enter_context(tuning(bound, neurons, form, seed=0))
        learning = [p for p in deltas.parameters() if p.requires_grad]
    else:
        model, learning = peft_model(bound, neurons, kind)
    if head == "answers":
        return learning, lambda: answers(bound, rows).nll() / rows.tokens()
    runs = bound.model if model is None else model
    return learning, lambda: runs(**rows.inputs, labels=rows.labels, use_cache=False).loss


def work(pipe: Connection, *job: Any) -> None:
    """One variant in its own process; ends with the driver."""
    with suppress(EOFError):
        steps(pipe, *job)


def steps(pipe: Connection, shape: str, kind: str, head: str, threads: int) -> None:
    """Load, then take one step whenever told to."""
    torch.set_num_threads(threads)
    hf.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    with ExitStack() as stack:
        learning, loss_of = prepared(stack, shape, kind, head)
        loaded = resident()
        optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.0)
        pipe.send(sum(p.numel() for p in learning))
        while pipe.recv():
            wall, cpu = time.perf_counter(), time.process_time()
            loss = loss_of()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            state = sum(v.nbytes for s in optimizer.state.values() for v in s.values())
            pipe.send((float(loss.detach()), *spent, peak - loaded, state / 2**20))


def drive(shape: str, rounds: int, threads: int, names: list[str]) -> dict[str, dict[str, Any]]:
    context, pipes, out = mp.get_context("spawn"), {}, {}
    for name in names:
        ours, theirs = context.Pipe()
        job = (theirs, shape, *VARIANTS[name], threads)
        context.Process(target=work, args=job, daemon=True).start()
        pipes[name] = ours
        out[name] = {"trained": ours.recv(), "steps": []}
    for _ in range(rounds + 1):  # the first is the warm-up: optimiser state is allocated in it
        for name, pipe in pipes.items():
            pipe.send(True)
            out[name]["steps"].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    return out


def table(out: dict[str, dict[str, Any]]) -> str:
    lines = ["| variant | trained | ms a step (wall) | ms (CPU) | extra MB | optimiser MB | loss |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, got in out.items():
        loss, wall, cpu, extra, state = zip(*got["steps"], strict=True)
        fast, slow = min(wall[1:]) * 1e3, statistics.median(wall[1:]) * 1e3
        lines.append(
            f"| {name} | {got['trained'] / 1e6:.2f}M | {slow:.0f} (min {fast:.0f})"
            f" | {statistics.median(cpu[1:]) * 1e3:.0f} | {max(extra):.0f} | {state[-1]:.1f}"
            f" | {loss[-1]:.6f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="variants whose name holds one of these")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = list(VARIANTS)
    try:
        import peft

        print(f"PEFT {peft.__version__}, torch {torch.__version__}, {options.threads} thread(s)")
    except ImportError:
        names = [name for name in names if not name.startswith("PEFT")]
        print(f"PEFT is not installed: its rows are left out. torch {torch.__version__}")
    if options.only:
        names = [name for name in names if any(part in name for part in options.only)]
    out = drive("quick" if options.quick else "full", options.rounds, options.threads, names)
    for one, other in (pair for pair in EQUAL if out.keys() >= set(pair)):
        pairs = zip(out[one]["steps"], out[other]["steps"], strict=True)
        gap = max(abs(a[0] - b[0]) for a, b in pairs)
        if not gap < 1e-4:
            sys.exit(f"{one} and {other} must train alike, but their losses differ by {gap:.2g}")
    print(json.dumps(out) if options.json else table(out))


if __name__ == "__main__":
    main()

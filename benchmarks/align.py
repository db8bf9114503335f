"""Cost of one training step: chosen neurons alone, beside what people do today.

    python benchmarks/align.py                        # SmolLM2-135M's shape on the CPU, 8 minutes
    python benchmarks/align.py --shape quick          # a small shape, for trying out
    python benchmarks/align.py --shape llama-3.1-8b   # 8 billion parameters in bfloat16, on CUDA

Same random weights, batch, layers, optimiser and loop for all; losses are compared before any
speed is printed. The neurons are a random draw with the spread over layers that an identify run
found (`--neurons RUN/stages/identify/KEY/neurons.json` takes a run's own set). Every variant is a
process of its own, so that its peak memory is its own; on the CPU the processes take one step
each in turn (A B C A B C), so that a busy machine slows all of them alike. Times are medians,
CPU time beside wall time. `--parts memory` counts peaks a second time with a C library that gives
back whatever is freed, so that none of its holes are in them. `cache` rows count their making in,
over three epochs. PEFT is used where it is installed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from align_variants import EPOCHS, NAMES, SHAPES, Size, Variant, load, name_of, work

from precise_shield.core.sites import NeuronSet

PLAIN = [Variant(kind) for kind in NAMES]
HEADED = [Variant(kind, answers=True) for kind in ("all", *list(NAMES)[2:])]
DRIFTING = [
    Variant(kind, answers=True, kl=True, kept=kept)
    for kept in (False, True)
    for kind in ("lora2", "rows")
]
RERUN = [Variant(kind, answers=True, rerun=True) for kind in ("lora2", "rows")]
SPARING = [
    Variant(kind, answers=answers, sparing=True)
    for answers in (False, True)
    for kind in ("lora2", "lora3", "rows", "direct")
]
COMPARED = [*PLAIN, *HEADED, *DRIFTING, *RERUN, *SPARING]

EQUAL = [
    ("all", "ffn", {}, {}),
    ("all", "direct", {}, {}),
    *((kind, kind, {}, dict(answers=True)) for kind in ("all", *list(NAMES)[2:])),
    *(
        (kind, kind, dict(answers=True, kl=True), dict(answers=True, kl=True, kept=True))
        for kind in ("lora2", "rows")
    ),
    *(
        (kind, kind, dict(answers=True), dict(answers=True, rerun=True))
        for kind in ("lora2", "rows")
    ),
    *(
        (one.kind, one.kind, dict(answers=one.answers), dict(answers=one.answers, sparing=True))
        for one in SPARING
    ),
]
"""Pairs that must train alike: kind and savings of the one, of the other."""

Rows = dict[str, dict[str, Any]]
_WEIGHTS: dict[tuple[str, int | None], Any] = {}


def drive(
    jobs: Mapping[str, tuple[Size, Variant]], rounds: int, threads: int, exact: bool = False
) -> Rows:
    """One step each in turn; on CUDA one variant after another, for they share its memory.

    `exact` has the C library give back whatever is freed, so that peaks hold none of its holes;
    that takes time, so times of such a run mean nothing.
    """
    size = next(iter(jobs.values()))[0]
    if size.device == "cuda":
        out: Rows = {}
        for name, job in jobs.items():
            out |= _together({name: job}, rounds, threads, mp.get_context("spawn"), None, False)
        return out
    for one, _ in jobs.values():
        key = (one.shape, one.layers)
        if key not in _WEIGHTS:
            _WEIGHTS[key] = load(one)  # shared by the processes until they write to it
    return _together(jobs, rounds, threads, mp.get_context("fork"), _WEIGHTS, exact)


def _together(
    jobs: Mapping[str, tuple[Size, Variant]],
    rounds: int,
    threads: int,
    context: Any,
    weights: Any,
    exact: bool,
) -> Rows:
    pipes, started = {}, []
    out: Rows = {}
    for name, (size, variant) in jobs.items():
        ours, theirs = context.Pipe()
        bound = None if weights is None else weights[size.shape, size.layers]
        child = context.Process(
            target=work, args=(theirs, size, variant, threads, bound, exact), daemon=True
        )
        child.start()
        theirs.close()
        started.append(child)
        got = _received(ours)
        if isinstance(got, str):
            print(f"{name}: {got}", file=sys.stderr)
            out[name] = {"failed": got}
            continue
        pipes[name] = ours
        out[name] = {"trained": got[0], "built": got[1:], "steps": []}
    for number in range(rounds + 1):  # the first warms up: optimiser state is allocated in it
        for name in list(pipes):
            pipes[name].send(True)
            got = _received(pipes[name])
            if isinstance(got, str):
                print(f"{name}: {got}", file=sys.stderr)
                out[name] = {"failed": got}
                del pipes[name]
            else:
                out[name]["steps"].append(got)
        if len(jobs) > 3:
            print(f"  round {number} of {rounds}", file=sys.stderr, flush=True)
    for pipe in pipes.values():
        pipe.send(False)
    for child in started:
        child.join(timeout=30)
    return out


def _received(pipe: Any) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return "its process ended without a word"


def cost(row: dict[str, Any], column: int) -> float:
    """Median milliseconds a step (1 wall, 2 CPU), the making of a cache shared out over epochs."""
    each = statistics.median(step[column] for step in row["steps"][1:])
    return 1e3 * (each + row["built"][column - 1] / EPOCHS)


def extra(row: dict[str, Any]) -> float:
    return max(step[3] for step in row["steps"])


def check_equal(out: Rows, exact: float) -> None:
    """Stop where two variants that must train alike do not."""
    checked = 0
    for one, other, savings, others in EQUAL:
        names = name_of(Variant(one, **savings)), name_of(Variant(other, **others))
        if not all("steps" in out.get(name, {}) for name in names):
            continue
        pairs = list(zip(*(out[name]["steps"] for name in names), strict=True))
        gap = max(abs(a[0] - b[0]) / abs(a[0]) for a, b in pairs)
        if not gap < exact:
            sys.exit(f"{names[0]} and {names[1]} must train alike, but losses differ by {gap:.2g}")
        checked += 1
    print(f"{checked} pairs of variants that must train alike do, to {exact:g} of the loss.\n")


def table(out: Rows, cuda: bool) -> str:
    second = "" if cuda else " ms (CPU) |"
    lines = [
        f"| variant | trained | ms a step (wall) |{second} extra MB | last loss |",
        "|---|---|---|---|---|" + ("" if cuda else "---|"),
    ]
    for name, got in out.items():
        if "failed" in got:
            lines.append(f"| {name} | {got['failed'][:60]} |")
            continue
        cpu = "" if cuda else f" {cost(got, 2):.0f} |"
        lines.append(
            f"| {name} | {got['trained'] / 1e6:.2f}M | {cost(got, 1):.0f} |{cpu}"
            f" {extra(got):.0f} | {got['steps'][-1][0]:.6f} |"
        )
    return "\n".join(lines)


def ratios(out: Rows, column: int | None) -> str:
    """How many times the peer's cost is ours: above 1 ours is cheaper."""
    lines = ["| ours | beside | time, times | extra memory, times |", "|---|---|---|---|"]
    pairs = [("direct", "all"), ("direct", "ffn"), ("direct", "lora3"), ("direct", "shira")]
    pairs += [("rows", "all"), ("rows", "lora2")]
    asked: list[tuple[Variant, Variant]] = []
    for ours, theirs in pairs:
        asked.append((Variant(ours), Variant(theirs)))
        if theirs in ("all", "lora2", "lora3", "shira"):
            asked.append((Variant(ours, answers=True), Variant(theirs, answers=True)))
    asked += [(Variant(ours, answers=True), Variant("all")) for ours in ("direct", "rows")]
    drifts = dict(answers=True, kl=True)
    asked += [
        (Variant("rows", **drifts), Variant("lora2", **drifts)),
        (Variant("rows", **drifts, kept=True), Variant("lora2", **drifts, kept=True)),
        (Variant("rows", **drifts, kept=True), Variant("rows", **drifts)),
        (Variant("rows", answers=True, rerun=True), Variant("lora2", answers=True, rerun=True)),
        (Variant("rows", answers=True, rerun=True), Variant("rows", answers=True)),
    ]
    for ours, theirs in (("rows", "lora2"), ("direct", "lora3")):
        spared = Variant(ours, answers=True, sparing=True)
        asked += [
            (Variant(ours, sparing=True), Variant(theirs)),
            (Variant(ours, sparing=True), Variant(theirs, sparing=True)),
            (spared, Variant(theirs, answers=True)),
            (spared, Variant(theirs, answers=True, sparing=True)),
            (spared, Variant(theirs)),
            (spared, Variant(ours, answers=True)),
        ]
    for one, other in asked:
        ours, theirs = out.get(name_of(one), {}), out.get(name_of(other), {})
        if "steps" in ours and "steps" in theirs:
            time = "" if column is None else f"{cost(theirs, column) / cost(ours, column):.2f}"
            memory = extra(theirs) / extra(ours)
            lines.append(f"| {name_of(one)} | {name_of(other)} | {time} | {memory:.2f} |")
    return "\n".join(lines)


def scaling(size: Size, rounds: int, threads: int, peft: bool, only: Sequence[str]) -> str:
    """Cost against neurons, layers, length and the lowest trained block.

    `only` takes the points whose name holds one of these, where any does.
    """
    layers = int(SHAPES[size.shape]["num_hidden_layers"])
    points: dict[str, tuple[Size, bool]] = {}
    for times in (0.25, 1.0, 4.0):
        points[f"neurons, x {times:g} of those found"] = replace(size, neurons=times), False
    for count in (layers // 3, 2 * layers // 3):
        points[f"layers, {count} of {layers}"] = replace(size, layers=count), False
    for length in (size.length // 2, 2 * size.length):
        points[f"tokens a row, {length}"] = replace(size, length=length), False
    for lowest in (layers // 3, 2 * layers // 3):
        points[f"lowest trained block {lowest}, no cache"] = replace(size, lowest=lowest), False
        points[f"lowest trained block {lowest}, cache"] = replace(size, lowest=lowest), True
    kinds = ["rows", *(["lora2"] if peft else [])]
    lines = [
        "| point | " + " | ".join(f"{NAMES[kind]}: ms, MB" for kind in kinds) + " |",
        "|---|" + "---|" * len(kinds),
    ]
    picked = {p for p in points if any(part in p for part in only)} or set(points)
    for point, (one, kept) in points.items():
        if point not in picked:
            continue
        jobs = {kind: (one, Variant(kind, answers=True, kept=kept)) for kind in kinds}
        out = drive(jobs, rounds, threads)
        column = 1 if size.device == "cuda" else 2
        cells = [
            f"{cost(got, column):.0f}, {extra(got):.0f}" if "steps" in got else "failed"
            for got in out.values()
        ]
        lines.append(f"| {point} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def found_in(path: Path | None) -> NeuronSet | None:
    if path is None:
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return NeuronSet.from_json(content["sets"][content["chosen"]])


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=list(SHAPES), default="smollm2-135m")
    parser.add_argument("--parts", nargs="+", choices=["memory", "time", "scaling"])
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda from 8b on")
    parser.add_argument("--dtype", help="default: float32 on the CPU, bfloat16 on CUDA")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, help="tokens a row; default 96, on CUDA 512")
    parser.add_argument("--answer", type=int, help="answer tokens a row; default length / 3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--neurons", type=Path, help="neurons.json of an identify run")
    parser.add_argument(
        "--only", nargs="*", help="variants, and points of scaling, whose name holds one of these"
    )
    parser.add_argument("--json", type=Path, help="write all steps here")
    return parser.parse_args()


def main() -> None:
    given = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the children along
    torch.set_num_threads(1)  # the children set theirs; a pool does not survive a fork
    device = given.device or ("cuda" if given.shape.endswith("b") else "cpu")
    cuda = device == "cuda"
    if cuda and not torch.cuda.is_available():
        sys.exit("no CUDA device here; give --device cpu and a small --shape.")
    dtype = given.dtype or ("bfloat16" if cuda else "float32")
    length = given.length or (512 if cuda else 96)
    answer = given.answer or length // 3
    found = found_in(given.neurons)
    size = Size(given.shape, given.rows, length, answer, device=device, dtype=dtype, found=found)
    try:
        import peft

        version = f"PEFT {peft.__version__}"
    except ImportError:
        version = "no PEFT: its rows are left out"
    names = {name_of(one): (size, one) for one in COMPARED}
    if "PEFT " not in version:
        names = {name: job for name, job in names.items() if "PEFT" not in name}
    if given.only:
        names = {n: job for n, job in names.items() if any(part in n for part in given.only)}
    where = torch.cuda.get_device_name() if cuda else f"{given.threads} thread(s)"
    print(
        f"{given.shape}, {given.rows} rows of {length} tokens, {answer} of them answer; {dtype};"
        f" {where}; torch {torch.__version__}, transformers {transformers.__version__}, {version};"
        f" {given.rounds} rounds\n"
    )
    started = time.perf_counter()
    parts: Sequence[str] = given.parts or ["memory", "time", "scaling"]
    if "memory" in parts and not cuda:  # there the time part measures it
        out = drive(names, 1, given.threads, exact=True)
        lines = [f"| {name} | {extra(got):.0f} |" for name, got in out.items() if "steps" in got]
        print(
            "Memory without the allocator's holes\n", "| variant | extra MB |\n|---|---|", sep="\n"
        )
        print(*lines, "", ratios(out, None), "", sep="\n")
    if "time" in parts:
        out = drive(names, given.rounds, given.threads)
        check_equal(out, 1e-4 if dtype == "float32" else 2e-2)
        print(table(out, cuda), "\n", ratios(out, 1 if cuda else 2), sep="\n")
        if given.json:
            given.json.write_text(json.dumps(out), encoding="utf-8")
    if "scaling" in parts:
        print("\n" + scaling(size, 2, given.threads, "PEFT " in version, given.only or ()))
    print(f"\n{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()

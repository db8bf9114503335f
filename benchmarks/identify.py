"""Cost of identification: streaming statistics, beside what people do today.

    python benchmarks/identify.py                 # SmolLM2-135M's shape, some twenty minutes
    python benchmarks/identify.py --quick         # a small shape, under two minutes
    python benchmarks/identify.py --parts time    # one part: time, memory, scaling, deactivation

Every variant computes the same statistic (each unit's mean activation in two arms) on the same
prompts, and must find the same units before any time is printed. Variants take turns
(A B C A B C), so that a busy machine slows all alike; ratios are medians over rounds of the
ratio to the bare backbone in the same round. CPU is the process's own time, wall the clock's.
Memory is the peak of a fresh process over what the loaded model takes. Random weights: only costs
mean something here. TransformerLens and nnsight take part where they are installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing as mp
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers as hf
from identify_variants import (
    BARE,
    DECISION,
    MEANS,
    bare,
    batches,
    load,
    prompts,
    streamed,
    variants,
)
from torch import Tensor

from precise_shield.core.sites import Site
from precise_shield.identify.deactivation import Opened
from precise_shield.identify.select import Selection, contrast
from precise_shield.identify.stats import Stats
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.passes.taps import tapped


def sets_agree(bound: BoundModel, found: dict[str, Stats], at: str) -> None:
    """Stop unless all statistics give the same sets."""
    choice = Selection(position=at, p=0.03)
    sets = {name: contrast(stats, ("en", "text"), choice).draw(0) for name, stats in found.items()}
    first, *others = sets.items()
    for name, other in others:
        if other != first[1] or not other:
            raise SystemExit(f"{name} and {first[0]} must find the same units, and do not")


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    out = work()
    return time.perf_counter() - wall, time.process_time() - cpu, out


def part_time(options: argparse.Namespace) -> dict[str, Any]:
    """Time of each variant, position by position, and its ratio to the bare backbone."""
    bound, known = load(options.shape), variants()[0]
    rows, out = prompts(options.shape, options.prompts), {}
    for at in (DECISION, MEANS):
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in known}
        found: dict[str, Stats] = {}
        for number in range(options.rounds + 1):  # the first warms up
            for name, variant in known.items():
                *spent, stats = timed(lambda v=variant, at=at: v(bound, rows, options.batch, at))
                if stats is not None:
                    found[name] = stats
                if number:
                    taken[name].append((spent[0], spent[1]))
            if not number:
                sets_agree(bound, found, at)
        out[at] = {name: summary(spent, taken[BARE]) for name, spent in taken.items()}
    return out


def summary(spent: list[tuple[float, float]], base: list[tuple[float, float]]) -> dict[str, float]:
    pairs = list(zip(spent, base, strict=True))
    return {
        "wall_s": statistics.median(wall for wall, _ in spent),
        "cpu_s": statistics.median(cpu for _, cpu in spent),
        "wall_ratio": statistics.median(one[0] / other[0] for one, other in pairs),
        "cpu_ratio": statistics.median(one[1] / other[1] for one, other in pairs),
    }


def status(field: str) -> float:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 2**10


def memory_of(pipe: Any, shape: str, name: str, count: int, size: int, threads: int) -> None:
    """In a process of its own: the peak over the loaded model after a first small pass, in MB."""
    torch.set_num_threads(threads)
    hf.utils.logging.set_verbosity_error()
    bound, rows = load(shape), prompts(shape, count)
    variants()[0][name](bound, prompts(shape, 2, (8, 9)), 2, MEANS)  # what is set up once
    gc.collect()
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts again from here
    before = status("VmRSS")
    variants()[0][name](bound, rows, size, MEANS)
    pipe.send(status("VmHWM") - before)


def part_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak extra memory against the number of prompts."""
    context, out = mp.get_context("spawn"), {}
    for name in variants()[0]:
        out[name] = {}
        for count in (options.prompts // 2, options.prompts, 2 * options.prompts):
            ours, theirs = context.Pipe()
            job = (theirs, options.shape, name, count, options.batch, options.threads)
            child = context.Process(target=memory_of, args=job)
            child.start()
            theirs.close()
            out[name][count] = ours.recv()
            child.join()
    return out


def part_scaling(options: argparse.Namespace) -> dict[str, Any]:
    """Bare and streamed time against model size and sequence length."""
    out = {}
    sizes = ["quick"] if options.shape == "quick" else ["quick", "half", "full"]
    jobs = [(shape, (48, 49)) for shape in sizes]
    jobs += [(options.shape, (size, size + 1)) for size in (32, 64, 128, 256)]
    for shape, length in jobs:
        bound = load(shape)
        rows = prompts(shape, options.prompts // 2, length)
        taken: dict[str, list[tuple[float, float]]] = {BARE: [], "ours": []}
        for number in range(max(3, options.rounds // 2) + 1):
            for name, variant in ((BARE, bare), ("ours", streamed)):
                *spent, _ = timed(lambda v=variant, b=bound, r=rows: v(b, r, options.batch, MEANS))
                if number:
                    taken[name].append((spent[0], spent[1]))
        units = sum(spot.width for spot in bound.sites.values())
        key = f"{shape}, {len(bound.sites)} layers, {units} units, {length[0]} tokens"
        out[key] = {
            "bare_cpu_s": summary(taken[BARE], taken[BARE])["cpu_s"],
            **summary(taken["ours"], taken[BARE]),
        }
    return out


def off(bound: BoundModel, site: Site, unit: int) -> Any:
    def fn(here: Site, acts: Tensor) -> Tensor | None:
        if here != site:
            return None
        edited = acts.clone()
        edited[..., unit] = 0
        return edited

    return tapped(bound.only([site]), fn)


@torch.no_grad()
def part_deactivation(options: argparse.Namespace) -> dict[str, Any]:
    """Exact deactivation against one full forward a unit, on units spread over all layers."""
    bound = load(options.shape)
    batch = batches(
        prompts(options.shape, 1, (options.length, options.length + 1)), 1, (DECISION,)
    )[0]
    opening_cpu = time.process_time()
    opened = Opened.of(bound, batch)
    opening_cpu = time.process_time() - opening_cpu
    each = torch.arange(0, opened.acts[min(bound.sites)].shape[-1], options.stride)
    at = batch.masks[DECISION][0]
    taken: dict[str, list[float]] = {"ours": [], "backbone": [], "with head": []}
    gap, scale = 0.0, 0.0
    for site in bound.sites:
        _, cpu, ours = timed(lambda s=site: opened.distances(s, each)[0])
        taken["ours"].append(cpu / len(each))
        for unit in each[torch.arange(len(each)) % (len(each) // options.checked) == 0].tolist():
            with off(bound, site, unit):
                _, cpu, out = timed(lambda: bound.backbone(**batch.inputs, use_cache=False))
                taken["backbone"].append(cpu)
                taken["with head"].append(
                    timed(lambda: bound.model(**batch.inputs, use_cache=False))[1]
                )
            away = float((out.last_hidden_state - opened.base)[0, at].norm())
            gap = max(gap, abs(away - float(ours[unit // options.stride])))
            scale = max(scale, away)
    if not gap < 1e-5 * max(1.0, scale):
        raise SystemExit(f"exact deactivation is {gap:.2g} away from full forward passes")
    mean = {name: statistics.mean(values) for name, values in taken.items()}
    tokens = batch.inputs["input_ids"].shape[1]
    block = sum(p.numel() for p in opened.chain.steps[0].module.parameters())
    flops = 2 * block * tokens * (len(bound.sites) - 1) / 2
    return {
        "tokens": tokens,
        "units_timed": len(each) * len(bound.sites),
        "units_checked": len(taken["backbone"]),
        "largest_gap": gap,
        "largest_distance": scale,
        "ms_a_unit": {name: 1e3 * value for name, value in mean.items()},
        "ratio_to_backbone": mean["backbone"] / mean["ours"],
        "ratio_to_model_with_head": mean["with head"] / mean["ours"],
        "gflop_a_unit": flops / 1e9,
        "hours_all_units_one_prompt": mean["ours"]
        * sum(spot.width for spot in bound.sites.values()) / 3600,
        "estimate_seconds_all_units_at_20_tflops": flops
        * sum(spot.width for spot in bound.sites.values()) / 20e12,
        "opening_cpu_s": opening_cpu,
    }  # fmt: skip


PARTS = {"memory": part_memory, "time": part_time, "scaling": part_scaling,
         "deactivation": part_deactivation}  # fmt: skip


def tables(out: dict[str, Any]) -> Iterator[str]:
    for at, rows in out.get("time", {}).items():
        yield f"\n**{at}**\n\n| variant | wall s | CPU s | wall / bare | CPU / bare |"
        yield "|---|---|---|---|---|"
        for name, row in rows.items():
            yield (
                f"| {name} | {row['wall_s']:.2f} | {row['cpu_s']:.2f} | {row['wall_ratio']:.3f}"
                f" | {row['cpu_ratio']:.3f} |"
            )
    if memory := out.get("memory"):
        counts = list(next(iter(memory.values())))
        heads = " | ".join(f"{count} prompts" for count in counts)
        yield f"\n**peak extra MB, {MEANS}**\n\n| variant | {heads} |"
        yield "|---" * (len(counts) + 1) + "|"
        for name, row in memory.items():
            yield f"| {name} | " + " | ".join(f"{row[count]:.0f}" for count in counts) + " |"
    if scaling := out.get("scaling"):
        yield f"\n**scaling, {MEANS}**\n\n| shape | bare CPU s | ours CPU s | CPU ratio |"
        yield "|---|---|---|---|"
        for name, row in scaling.items():
            times = f"{row['bare_cpu_s']:.2f} | {row['cpu_s']:.2f} | {row['cpu_ratio']:.3f}"
            yield f"| {name} | {times} |"
    if found := out.get("deactivation"):
        yield "\n**exact deactivation**\n\n| | |\n|---|---|"
        for name, value in found.items():
            shown = value if not isinstance(value, float) else f"{value:.4g}"
            yield f"| {name} | {json.dumps(shown) if isinstance(shown, dict) else shown} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small shape, few rounds")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--length", type=int, default=48, help="tokens of the deactivation prompt")
    parser.add_argument("--stride", type=int, default=32, help="time every so-many-th unit")
    parser.add_argument("--checked", type=int, default=2, help="full forwards a layer")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.shape = "quick" if options.quick else "full"
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.prompts = options.prompts or (16 if options.quick else 48)
    torch.set_num_threads(options.threads)
    hf.utils.logging.set_verbosity_error()
    out = {name: PARTS[name](options) for name in options.parts}
    if options.json:
        print(json.dumps(out))
        return
    print(
        f"torch {torch.__version__}, {options.threads} thread(s), shape {options.shape},"
        f" {options.prompts} prompts, batches of {options.batch}, {options.rounds} rounds"
    )
    print("\n".join([*variants()[1], *tables(out)]))


if __name__ == "__main__":
    main()

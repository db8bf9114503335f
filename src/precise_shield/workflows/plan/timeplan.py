"""What a configuration will take, from a probe of real steps: time, memory, what to mend."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from precise_shield.core.parallel import crew
from precise_shield.workflows.answer.judges import names_of
from precise_shield.workflows.base.config import Config
from precise_shield.workflows.base.progress import Reporter
from precise_shield.workflows.plan.doctor import describe
from precise_shield.workflows.plan.keeping import keeping
from precise_shield.workflows.plan.keeping import told as sizes
from precise_shield.workflows.plan.price import Price
from precise_shield.workflows.plan.probe import prices
from precise_shield.workflows.plan.reading import told
from precise_shield.workflows.plan.timing import Neighbours, Timing, clock_is_processor, sentence
from precise_shield.workflows.plan.work import Probing, Work, work_of

LONG = 3600.0
"""Seconds from which a plan names the setting that would shorten it most."""

WHOLE = ("identify", "align")
"""Stages that pay what comes on top of all items: the size of a batch, a training's receipt."""

TIGHT = 0.85
"""Share of a device's memory from which a peak counts as a problem."""

MEND = {
    "row": "lower identify.batch_size, set model.dtype: bfloat16, or spread the model with"
    " model.device_map: auto",
    "prompt": "lower verify.batch_size, set model.dtype: bfloat16, or spread the model with"
    " model.device_map: auto",
    "answer": "lower evaluate.batch_size, set model.dtype: bfloat16, or spread the model with"
    " model.device_map: auto",
    "draw": "lower identify.p",
    "step": "lower align.micro_batch, set align.gradient_checkpointing: true or model.dtype:"
    " bfloat16, or spread the model with model.shard: fsdp",
}

KNOBS = {
    "identify": "identify.also, identify.factorial, or the probing rows (--limit)",
    "explain": "explain.influence.random_sets, explain.headroom.per_cell",
    "verify": "verify.random_sets, verify.per_cell, verify.equal_importance, verify.factors",
    "align": "align.max_steps, align.epochs, align.arms, align.zero_shot, align.search",
    "gate": "align.gate.per_cell, align.search",
    "evaluate": "evaluate.max_new_tokens, the test rows (--limit), align.arms,"
    " evaluate.random_suppressions",
}

LEFT_OUT = (
    "loading and hashing the model, reading data, judging, served models, early stopping,"
    " bootstrap and shuffled-label draws, writing files and pages; answers count at the length of"
    " the longest of a batch, or at their full length where one of those did not end; arms of"
    " another form (full, lora, benign_rows) are priced as the configured form; kept parts"
    " (align.cache), finished stages and further processes, which make it faster, are not"
    " subtracted; every kind of reading is priced as the nearest of the timed ones"
)


def probe(config: Config) -> dict[str, Any]:
    """Time real batches of a configuration and multiply by what its stages have to do.

    The training step is taken back bit for bit, and nothing is left on disk.

    Raises:
        UserError: the model does not load, or data lack what a stage needs.
    """
    shown = describe(config.model)
    head = {"name": config.name, **shown, "processes": _processes(config)}
    room = _room(torch.device(shown["device"]))
    weights = shown["memory_mib"]["weights"]
    spread = config.model.device_map is not None or config.model.shard == "fsdp"
    if room is not None and weights > room and not spread:
        why = (
            f"the weights take {weights:,} MiB and {shown['device']} has {room:,.0f}: set"
            " model.dtype: bfloat16, model.device_map: auto or model.shard: fsdp, or take a"
            " smaller model. Nothing was timed."
        )
        return {**head, "stages": [], "problems": [why]}
    with tempfile.TemporaryDirectory() as folder:
        run = Probing(config, Path(folder), Reporter(quiet=True))
        run.assemble()
        work = work_of(run)
        neighbours = Neighbours()
        cost = prices(run, work)
        share, device = neighbours.share(), run.loaded.device
        cache = keeping(run)
    busy = sentence(share, device)
    if busy is not None and clock_is_processor(device):
        cost = {kind: price.on_a_quiet_machine() for kind, price in cost.items()}
    table = _table(config, work, cost, room)
    table["problems"] += shown["reading"]["problems"]
    if cache is not None and cache["problem"] is not None:
        table["problems"].append(cache["problem"])
    shares = {"busy_with_other_work": share, "busy": busy}
    return {**head, **table, **shares, "cache": cache, "warnings": run.warnings}


def _table(
    config: Config, work: list[Work], cost: dict[tuple[str, str], Price], room: float | None
) -> dict[str, Any]:
    rows = [_row(each, cost.get((each.unit, each.quantity), Price())) for each in work]
    known = [row for row in rows if row["seconds"] is not None]
    total = sum(row["seconds"] for row in known)
    by_stage: dict[str, float] = {}
    for row in known:
        by_stage[row["stage"]] = by_stage.get(row["stage"], 0.0) + row["seconds"]
    return {
        "stages": rows,
        "timed": {
            " ".join(filter(None, kind)): {
                "batch": price.batch,
                "seconds_each": price.seconds,
                "seconds_a_further_token": price.token or None,
                "tokens_a_second": 1 / price.token if price.token else None,
                "tokens_an_answer": price.ends,
                "peak_memory_mib": price.peak_mib,
            }
            for kind, price in cost.items()
        },
        "seconds_by_stage": by_stage,
        "seconds": total,
        "cpu_seconds": sum(row["cpu_seconds"] or 0.0 for row in rows),
        "peak_memory_mib": max((p.peak_mib for p in cost.values() if p.peak_mib), default=None),
        "problems": _problems(config, rows, cost, by_stage, room),
        "estimate": f"an estimate for one process on this machine as it is. Left out: {LEFT_OUT}.",
    }


def _row(work: Work, price: Price) -> dict[str, Any]:
    each, cpu = price.of(work), price.cpu_of(work)
    once = price.once.over(1 / work.times) if work.stage in WHOLE else Timing(0.0, 0.0)
    return {
        "stage": work.stage,
        "what": work.what,
        "count": work.count,
        "at_most": work.at_most,
        "unit": work.unit,
        "seconds_each": each,
        "seconds": None if each is None else each * work.count + once.wall,
        "cpu_seconds": None if cpu is None else cpu * work.count + once.cpu,
        "peak_memory_mib": price.peak_mib,
    }


def _problems(
    config: Config,
    rows: list[dict[str, Any]],
    cost: dict[tuple[str, str], Price],
    by_stage: dict[str, float],
    room: float | None,
) -> list[str]:
    found = []
    for (unit, quantity), price in cost.items():
        name = f"{unit} {quantity}".strip()
        if price.problem:
            found.append(f"{name}: {price.problem} Mend: {MEND[unit]}.")
        elif room is not None and price.peak_mib is not None and price.peak_mib > TIGHT * room:
            found.append(
                f"{name}: {price.peak_mib:,.0f} of {room:,.0f} MiB are taken. Mend: {MEND[unit]}."
            )
    found += [
        f"{row['stage']}, {row['what']}: {row['count']} of them have no estimate; it may be long."
        for row in rows
        if row["unit"] == "unpriced"
    ]
    if sum(by_stage.values()) > LONG:
        stage = max(by_stage, key=lambda name: by_stage[name])
        found.append(
            f"{duration(sum(by_stage.values()))} in all, {duration(by_stage[stage])} of them in"
            f" {stage}. Mend: lower {KNOBS[stage]}."
        )
    least = 1 / (1 + config.verify.random_sets)
    if least > 0.05:
        found.append(
            f"verify.random_sets: {config.verify.random_sets} gives no p below {least:.3f}; take"
            " 19 or more."
        )
    if config.evaluate.harness is not None:
        found.append("evaluate.harness: lm-eval's tasks run in every condition and are not timed.")
    asked = {section.name for section in config.evaluate.judge_models} & set(names_of(config))
    if asked:
        found.append(f"judge {', '.join(sorted(asked))}: its questions are not timed.")
    return found


def _processes(config: Config) -> dict[str, Any]:
    model, cache = config.model, config.align.cache
    return {
        "count": crew().size,
        "shard": model.shard,
        "device_map": model.device_map,
        "cache": cache.where,
        "cache_limit_mib": None if cache.where == "off" else cache.limit_mb,
    }


def _room(device: torch.device) -> float | None:
    """MiB of the device, or of this machine; None where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory) / 2**20
    if {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys():
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2**20
    return None


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def lines(found: dict[str, Any]) -> list[str]:
    """The plan as a table for a terminal."""
    head = ["stage", "what is done", "count", "each", "time", "peak MiB"]
    table = [head]
    for row in found["stages"]:
        each, whole, peak = row["seconds_each"], row["seconds"], row["peak_memory_mib"]
        table.append(
            [
                row["stage"],
                row["what"],
                ("<= " if row["at_most"] else "") + f"{row['count']:,} {row['unit']}",
                "-" if each is None else f"{each:.3g} s",
                "-" if whole is None else duration(whole),
                "-" if peak is None else f"{peak:,.0f}",
            ]
        )
    width = [max(len(line[i]) for line in table) for i in range(len(head))]
    shown = [f"model    {found['model']} on {found['device']}, {found['parameters']:,} parameters"]
    shown += told(found["reading"])
    parts = found["processes"]
    cache = found.get("cache")
    if cache is not None and "mib_from_higher_block" in cache:
        shown.append(f"cache    {sizes(cache)}")
    shown.append("process  " + ", ".join(f"{key} {value}" for key, value in parts.items()))
    if found["stages"]:
        shown += ["", *("  ".join(map(str.ljust, line, width)).rstrip() for line in table), ""]
        shown.append(f"total    {duration(found['seconds'])}")
    if found.get("busy"):
        shown.append(f"BUSY     {found['busy']}")
    shown += [f"PROBLEM  {each}" for each in found["problems"]] or ["problems none seen"]
    shown += [f"warning  {each}" for each in found.get("warnings", [])]
    return shown + ([f"This is {found['estimate']}"] if "estimate" in found else [])

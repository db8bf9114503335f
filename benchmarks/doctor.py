"""What `doctor --probe` plans beside what the run then takes, part by part.

    python benchmarks/doctor.py                                  # the demo's negative world
    python benchmarks/doctor.py --demo demo
    python benchmarks/doctor.py --config mine.yaml --set align.max_steps=10

Plan and run are a process each, one after the other, and the run starts from an empty folder
(`--out`; a temporary one without). Processor seconds are compared, so that the ratio means
something on a busy machine too; clock seconds stand beside them. A part of the run is what its
stages wrote of themselves, without the stages inside them. Below the table: what the run took
outside of what is planned (loading, judging, draws, pages), and the highest memory of both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import precise_shield

DEMOS = Path(precise_shield.__file__).parent / "workflows" / "demos"


@dataclass(frozen=True)
class Part:
    """Rows of the plan, and the stages of a run folder that do what they say."""

    name: str
    kinds: frozenset[str]
    words: tuple[str, ...]
    """What a row of the plan is about; the first part that fits takes it."""


def part(name: str, kinds: str, words: str) -> Part:
    return Part(name, frozenset(kinds.split()), tuple(words.split("|")))


PARTS = (
    part("identify: own answers", "own-answers own-responses", "own answers to|own responses to"),
    part("identify: readings", "collect", "of probing examples|responses apart|both responses"),
    part("explain: headroom", "headroom", "headroom"),
    part("explain: influence, writes", "influence writes", "influence|single neurons"),
    part("verify: random sets", "verify", "first token, untouched|draw random sets"),
    part("verify: panel", "asked panel dose rivals", "panel"),
    part("verify: set by cell", "matrix", "set by cell"),
    part("align: pairs", "rejected", "own answers, for pairs"),
    part("align: trainings", "align", "train "),
    part("gate, evaluate: answers", "respond defended", "answers in|behind|validation prompts"),
    part("gate, evaluate: drift", "drift", "drift"),
    part("evaluate: first token", "first-token", "first-token refusal log-odds"),
    part("evaluate: likelihood", "likelihood", "likelihood"),
    part("evaluate: audit", "audit", "audit"),
)


@dataclass
class Cost:
    """Seconds by the clock and of the processor, and the highest memory in MiB."""

    wall: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0


def process(words: list[str], said: Path) -> Cost:
    """Run a command of this package to its end; what it prints goes to a file."""
    before = os.times()
    with said.open("wb") as out:
        child = subprocess.Popen([sys.executable, "-m", "precise_shield", *words], stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"precise-shield {' '.join(words)} failed")
    cost = Cost(os.times().elapsed - before.elapsed, usage.ru_utime + usage.ru_stime)
    cost.peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return cost


def planned(plan: dict[str, Any]) -> dict[str, Cost]:
    """Cost by part; rows without a price are left out, and said."""
    found: dict[str, Cost] = {}
    for row in plan["stages"]:
        fitting = (each.name for each in PARTS if any(word in row["what"] for word in each.words))
        name = next(fitting, row["stage"])
        if row["seconds"] is None:
            print(f"no price: {row['stage']}, {row['what']}")
            continue
        cost = found.setdefault(name, Cost())
        cost.wall += row["seconds"]
        cost.cpu += row["cpu_seconds"] or 0.0
        cost.peak = max(cost.peak, row["peak_memory_mib"] or 0.0)
    return found


def measured(folder: Path) -> dict[str, Cost]:
    """Cost by kind of stage, without the stages that lie within another's time."""
    stages = []
    for path in folder.glob("stages/*/*/stage.json"):
        record, end = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime
        stages.append((end - record["seconds"], end, record))
    found: dict[str, Cost] = {}
    for start, end, record in stages:
        cost = found.setdefault(record["stage"], Cost())
        cost.wall += record["seconds"]
        cost.cpu += record["cpu_seconds"]
        cost.peak = max(cost.peak, record["peak_memory_mb"])
        around = [each for each in stages if each[0] < start and end < each[1]]
        if around:
            outer = found.setdefault(max(around, key=lambda each: each[0])[2]["stage"], Cost())
            outer.wall -= record["seconds"]
            outer.cpu -= record["cpu_seconds"]
    return found


def together(costs: Iterable[Cost]) -> Cost:
    every = list(costs)
    return Cost(
        sum(each.wall for each in every),
        sum(each.cpu for each in every),
        max((each.peak for each in every), default=0.0),
    )


def row(name: str, plan: Cost, run: Cost) -> str:
    ratio = f"{plan.cpu / run.cpu:.2f}" if run.cpu > 0 else "-"
    return (
        f"| {name} | {plan.cpu:.2f} | {run.cpu:.2f} | {ratio} | {plan.wall:.2f} | {run.wall:.2f} |"
        f" {plan.peak:,.0f} | {run.peak:,.0f} |"
    )


def table(plan: dict[str, Any], folder: Path) -> str:
    """Part by part, then all parts; the rest of the stages by name."""
    lines = [
        "| part | planned CPU s | run CPU s | ratio | planned clock s | run clock s |"
        " planned peak MiB | run peak MiB so far |",
        "|---" * 8 + "|",
    ]
    asked, did = planned(plan), measured(folder)
    rows: dict[str, tuple[Cost, Cost]] = {}
    for each in PARTS:
        real = together(did.pop(kind) for kind in sorted(each.kinds & did.keys()))
        if each.name in asked or real.cpu:
            rows[each.name] = asked.pop(each.name, Cost()), real
    rows |= {name: (cost, Cost()) for name, cost in asked.items()}
    lines += [row(name, *pair) for name, pair in rows.items()]
    lines.append(row("**all**", *map(together, zip(*rows.values(), strict=True))))
    rest = ", ".join(f"{kind} {cost.cpu:.2f}" for kind, cost in sorted(did.items()))
    return "\n".join([*lines, "", f"Stages without a plan, CPU s: {rest or 'none'}."])


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", choices=["demo", "negative", "full"], default="negative")
    parser.add_argument("--config", type=Path, help="a configuration in place of the demo's")
    parser.add_argument("--set", action="append", default=[], help="as of `run`; repeatable")
    parser.add_argument("--limit", help="as of `run`")
    parser.add_argument("--out", type=Path, help="run folder to keep; must not exist")
    return parser.parse_args()


def main() -> None:
    given = options()
    if given.out is not None and given.out.exists():
        sys.exit(f"{given.out} exists: finished stages would be taken up, and cost nothing")
    config = given.config or DEMOS / f"{given.demo}.yaml"
    words = [str(config), *(word for each in given.set for word in ("--set", each))]
    words += ["--limit", given.limit] if given.limit else []
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder) / "run"
        probe = process(["doctor", *words, "--probe", "--json"], Path(folder) / "plan.json")
        plan = json.loads((Path(folder) / "plan.json").read_text(encoding="utf-8"))
        share = plan["busy_with_other_work"]
        busy = "unknown" if share is None else f"{share:.0%}"
        print(f"{config.name}; other work took {busy} of the machine while batches were timed\n")
        run = process(["run", *words, "--out", str(out), "--quiet"], Path(folder) / "said")
        print(table(plan, out))
    print(
        f"The probe took {probe.cpu:.1f} CPU s ({probe.wall:.1f} by the clock), the whole run"
        f" {run.cpu:.1f} ({run.wall:.1f}). Highest memory: probe {probe.peak:,.0f} MiB, plan"
        f" {plan['peak_memory_mib'] or 0:,.0f}, run {run.peak:,.0f}."
    )


if __name__ == "__main__":
    main()

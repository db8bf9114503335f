"""Study 3, the whole chain drawn again: model, requests, neurons and tuning, with five seeds.

    python studies/embedded/chain.py              # results/chain.json and chain.md
    python studies/embedded/chain.py --negative   # the same in the world that shares nothing
    python studies/embedded/chain.py --arms       # with every arm, and deciding or writing

Every seed trains a model of the middle plan of `precise_shield.sandbox.build` (three languages,
four layers; the negative world has one plan), then runs the demo's configuration to the end,
unchanged but for what `--arms` adds. `--redraw` also draws by seed which requests the world holds
out; without it they are the same for all. Everything done is kept in the folder `--out`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from math import nan
from pathlib import Path
from statistics import fmean, stdev

from scipy.stats import t as student

from precise_shield import api
from precise_shield.core.rates import or_null
from precise_shield.core.summary import Summary
from precise_shield.sandbox import world
from precise_shield.sandbox.build import PLANS, WEIGHTS, WEIGHTS_NEGATIVE
from precise_shield.sandbox.build import main as build

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from measured import Row, markdown  # noqa: E402

RESULTS = HERE / "results"
DEMOS = resources.files("precise_shield.workflows").joinpath("demos")
PLAN = "middle"
SHIPPED = world.WORLD_SEED
MEASURES = ("attack_success", "gap_matched", "refusal_matched", "benign_correct")
ARMS = (
    "align.arms=[benign_rows, frozen_a, lora, lora_matched, full, amplified]",
    "verify.roles.sets=[chosen]",
)


TRAINED = ("benign-rows", "frozen-a", "lora", "lora-matched", "full")
"""Arms that stand beside the chosen rows."""


def hold_out(draw: int) -> None:
    """Draw which requests no training sees; draw 0 is the shipped world's."""
    world.WORLD_SEED = SHIPPED + draw
    for drawn in (world.splits, world.training_combos, world.held_out_combos):
        drawn.cache_clear()


def run_seed(
    seed: int, out: Path, threads: int, changes: Sequence[str], *, negative: bool
) -> Summary:
    """Build one world's model, and run the demo's configuration, with some changes, on it."""
    home = out / "worlds" / str(seed)
    weights = home / (WEIGHTS_NEGATIVE if negative else WEIGHTS).name
    if not (weights / "profile.json").is_file():
        only = "negative" if negative else "main"
        arguments = f"--scale={PLAN} --only={only} --seed={seed} --threads={threads}".split()
        build([*arguments, f"--out={home}"])
    spoken = [] if negative else [f"data.languages={list(PLANS[PLAN].languages)}"]
    keys = [
        *(f"name=chain-{seed}", f"seed={seed}", *spoken),
        *(f"model.path={weights}", f"model.threads={threads}", *changes),
    ]
    name = "negative.yaml" if negative else "demo.yaml"
    config = api.parse_config(DEMOS.joinpath(name).read_text("utf-8"), keys, name)
    return api.run(api.open_run(config, out / f"chain-{seed}", quiet=True))


def conditions(summary: Summary, seed: int) -> Iterator[Row]:
    """A row a condition: its pooled rates, each with scored and unscored n, and its refusal gap."""
    for condition in summary.conditions:
        row: Row = {"seed": seed, "condition": condition.name}
        for rate in summary.rates:
            pooled = rate.language is None and rate.modality is None
            if pooled and rate.condition == condition.name:
                row[rate.measure] = rate.value
                row[f"{rate.measure}_n"] = f"{rate.n} + {rate.unscored}"
        for gap in summary.gaps:
            if gap.condition == condition.name:
                row[f"gap_{gap.contrast}"] = gap.value
        yield row


def claims(summary: Summary, seed: int) -> Iterator[Row]:
    """A row a claim of the papers."""
    for claim in summary.claims:
        yield {
            "seed": seed,
            "claim": claim.claim,
            "verdict": claim.verdict,
            "found": claim.measured,
        }


def roles(summary: Summary, seed: int) -> Iterator[Row]:
    """Whether the chosen set decides to refuse or writes refusals, and what that rests on."""
    found = [] if summary.verification is None else summary.verification.causal.roles
    for role in found:
        yield {"seed": seed, "set": role.of, "verdict": role.verdict, "why": role.reason}


def together(rows: Sequence[Row]) -> Iterator[Row]:
    """Every condition against the untouched model, its control and the chosen rows, over seeds."""
    found = {(row["seed"], row["condition"]): row for row in rows}
    names = list(dict.fromkeys(name for _, name in found))
    pairs = [(name, "base") for name in names if name != "base"]
    pairs += [(name, control) for name in names for control in names if control in _controls(name)]
    for name, control in pairs:
        for measure in MEASURES:
            changes = [
                float(str(row[measure])) - float(str(found[seed, control][measure]))
                for (seed, each), row in found.items()
                if each == name and row.get(measure) is not None
                if found.get((seed, control), {}).get(measure) is not None
            ]
            if changes:
                yield {"condition": name, "minus": control, "of": measure, **interval(changes)}


def _controls(name: object) -> tuple[str, ...]:
    """Names that a condition's random control can have in `summary.json`."""
    if name == "aligned":
        return ("random-rows-0",)
    if name in TRAINED:
        return ("aligned",)
    return (f"random-{name}", f"random-{name}-0", f"{name}-random-0")


def interval(values: Sequence[float]) -> Row:
    """Mean over seeds and its 95 % t interval."""
    mean, n = fmean(values), len(values)
    half = float(student.ppf(0.975, n - 1)) * stdev(values) / n**0.5 if n > 1 else nan
    return {"seeds": n, "mean": mean, "low": or_null(mean - half), "high": or_null(mean + half)}


def verdicts(rows: Sequence[Row]) -> Iterator[Row]:
    """How many seeds gave each verdict on a claim."""
    for claim in dict.fromkeys(row["claim"] for row in rows):
        counts = Counter(str(row["verdict"]) for row in rows if row["claim"] == claim)
        yield {"claim": claim, "seeds": counts.total(), **counts}


def main() -> None:
    """Run every seed, and write what they say one by one and together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/study-chain"))
    parser.add_argument("--negative", action="store_true")
    parser.add_argument("--arms", action="store_true", help="every arm of the trainer, and roles")
    parser.add_argument("--redraw", action="store_true", help="other held-out requests each seed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=1, help="random-row controls of each seed")
    options = parser.parse_args()
    part = "chain-negative" if options.negative else "chain"
    out = options.out.with_name(f"{options.out.name}-negative") if options.negative else options.out
    part += "-arms" if options.arms else ""
    changes = [f"align.random_seeds={options.draws}", *(ARMS if options.arms else ())]
    by_seed: list[Row] = []
    by_claim: list[Row] = []
    by_role: list[Row] = []
    for seed in range(options.seeds):
        hold_out(seed if options.redraw else 0)
        summary = run_seed(seed, out, options.threads, changes, negative=options.negative)
        by_seed += conditions(summary, seed)
        by_claim += claims(summary, seed)
        by_role += roles(summary, seed)
        print(f"seed {seed}: {len(by_seed)} conditions so far", flush=True)
        parts = {
            "over seeds": list(together(by_seed)),
            "verdicts": list(verdicts(by_claim)),
            "by seed": by_seed,
            "claims by seed": by_claim,
            **({"roles by seed": by_role} if by_role else {}),
        }
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(parts, indent=1, ensure_ascii=False)
        (RESULTS / f"{part}.json").write_text(text + "\n", encoding="utf-8")
        shown = "\n".join(f"## {name}\n\n{markdown(rows)}" for name, rows in parts.items())
        (RESULTS / f"{part}.md").write_text(shown, encoding="utf-8")


if __name__ == "__main__":
    main()

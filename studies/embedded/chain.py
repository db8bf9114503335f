"""Study 3, the whole chain drawn again: model, requests, neurons and tuning, with five seeds.

    python studies/embedded/chain.py              # results/chain.json and chain.md
    python studies/embedded/chain.py --negative   # the same in the world that shares nothing

Every seed trains a model of the small plan of `precise_shield.sandbox.build` (three languages, four
layers; the negative world has one plan), then runs the demo's configuration, unchanged, to the
end. What the world holds out is the same for all. Everything done is kept in the folder `--out`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean, stdev

from scipy.stats import t as student

from precise_shield import api
from precise_shield.core.summary import Summary
from precise_shield.sandbox.build import PLANS, WEIGHTS, WEIGHTS_NEGATIVE
from precise_shield.sandbox.build import main as build

RESULTS = Path(__file__).parent / "results"
DEMOS = resources.files("precise_shield.workflows").joinpath("demos")
MEASURES = ("attack_success", "gap_matched", "refusal_matched", "benign_correct")

Row = dict[str, object]


def run_seed(seed: int, out: Path, threads: int, draws: int, *, negative: bool) -> Summary:
    """Build one world's model, and run the demo's configuration on it."""
    world = out / "worlds" / str(seed)
    weights = world / (WEIGHTS_NEGATIVE if negative else WEIGHTS).name
    if not (weights / "profile.json").is_file():
        only = "negative" if negative else "main"
        arguments = f"--scale=small --only={only} --seed={seed} --threads={threads}".split()
        build([*arguments, f"--out={world}"])
    spoken = [] if negative else [f"data.languages={list(PLANS['small'].languages)}"]
    keys = [
        *(f"name=chain-{seed}", f"seed={seed}", *spoken),
        *(f"model.path={weights}", f"model.threads={threads}", f"align.random_seeds={draws}"),
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


def together(rows: Sequence[Row]) -> Iterator[Row]:
    """Every condition against the untouched model and against its control, over the seeds."""
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
    return (f"random-{name}", f"random-{name}-0", f"{name}-random-0")


def interval(values: Sequence[float]) -> Row:
    """Mean over seeds and its 95 % t interval."""
    mean, n = fmean(values), len(values)
    half = float(student.ppf(0.975, n - 1)) * stdev(values) / n**0.5 if n > 1 else float("nan")
    return {"seeds": n, "mean": mean, "low": mean - half, "high": mean + half}


def verdicts(rows: Sequence[Row]) -> Iterator[Row]:
    """How many seeds gave each verdict on a claim."""
    for claim in dict.fromkeys(row["claim"] for row in rows):
        counts = Counter(str(row["verdict"]) for row in rows if row["claim"] == claim)
        yield {"claim": claim, "seeds": counts.total(), **counts}


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [" | ".join(keys), " | ".join("---" for _ in keys)]
    lines += [" | ".join(_shown(row.get(key)) for key in keys) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _shown(value: object) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def main() -> None:
    """Run every seed, and write what they say one by one and together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/study-chain"))
    parser.add_argument("--negative", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=1, help="random-row controls of each seed")
    options = parser.parse_args()
    part = "chain-negative" if options.negative else "chain"
    out = options.out.with_name(f"{options.out.name}-negative") if options.negative else options.out
    by_seed: list[Row] = []
    by_claim: list[Row] = []
    for seed in range(options.seeds):
        summary = run_seed(seed, out, options.threads, options.draws, negative=options.negative)
        by_seed += conditions(summary, seed)
        by_claim += claims(summary, seed)
        print(f"seed {seed}: {len(by_seed)} conditions so far", flush=True)
        parts = {
            "over seeds": list(together(by_seed)),
            "verdicts": list(verdicts(by_claim)),
            "by seed": by_seed,
            "claims by seed": by_claim,
        }
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(parts, indent=1, ensure_ascii=False)
        (RESULTS / f"{part}.json").write_text(text + "\n", encoding="utf-8")
        shown = "\n\n".join(f"## {name}\n\n{table(rows)}" for name, rows in parts.items())
        (RESULTS / f"{part}.md").write_text(shown + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

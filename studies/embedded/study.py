"""Study 3: what of the papers holds in the embedded world, and does the choice of neurons matter?

    python studies/embedded/study.py size     # p and form, chosen against random rows
    python studies/embedded/study.py arms     # every arm at the primary p
    python studies/embedded/study.py causal   # scores and positions: sets, and their suppression
    python studies/embedded/study.py tables   # results/*.json as results/*.md

All figures are of the *validation* split: settings are compared here, so no test set is opened. A
part resumes where it was stopped, for every training and answer is kept in the run folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

from precise_shield import api
from precise_shield.core.errors import UserError
from precise_shield.workflows.conditions import aligned_state, base_state
from precise_shield.workflows.context import Run
from precise_shield.workflows.validation import standing, validation_prompts

HERE = Path(__file__).parent
PRIMARY_P = 0.03
SIZES = (0.002, 0.005, 0.01, PRIMARY_P, 0.1, 0.2)
RATES = (5e-3, 2e-2)
SCORES = ("precise_shield", "one_anchor", "contrastive_difference", "effect_size")
POSITIONS = ("response_mean", "first_decision", "last_prompt", "prompt_mean")
DEMO = resources.files("precise_shield.workflows").joinpath("demos", "demo.yaml").read_text("utf-8")
FIXED = (
    "name=study-embedded",
    "align.zero_shot=[]",
    "align.gate.per_cell=null",
    "verify.panel=0",
    "verify.per_cell=4",
    "evaluate.kl_rows=120",
)

Row = dict[str, object]


def opened(out: Path, threads: int, changes: Iterable[str]) -> Run:
    """The demo's configuration with some keys changed, in the study's one run folder."""
    every = [*FIXED, f"model.threads={threads}", *changes]
    return api.open_run(api.parse_config(DEMO, every, "study"), out, quiet=True)


def standings(run: Run) -> Iterator[Row]:
    """The base model and every arm of a configuration, on validation data."""
    prompts = validation_prompts(run)
    arms = api.align(run)
    for arm, state in [(None, base_state()), *((arm, aligned_state(arm)) for arm in arms)]:
        found, _ = standing(run, state, prompts)
        trained = {} if arm is None else {"trained": arm.receipt.trained_with_a}
        yield {"arm": state.name, **found.model_dump(exclude={"condition"}), **trained}


def size(out: Path, threads: int, seeds: int) -> Iterator[Row]:
    """Chosen rows against random rows, over p, form and learning rate."""
    for form in ("lora_rows", "direct"):
        for p in SIZES:
            for rate in RATES:
                run = opened(
                    out,
                    threads,
                    [
                        f"align.form={form}",
                        f"identify.p={p}",
                        f"align.learning_rate={rate}",
                        f"align.random_seeds={seeds}",
                    ],
                )
                row: Row = {"form": form, "p": p, "rate": rate}
                row["neurons"] = len(api.identify(run).neurons)
                try:
                    yield from [{**row, **found} for found in standings(run)]
                except UserError as error:  # more than half of a layer has no random control
                    yield {**row, "note": str(error)[:80]}


def arms(out: Path, threads: int, seeds: int) -> Iterator[Row]:
    """Every arm of the trainer at the primary p, at both learning rates."""
    names = "[benign_rows, frozen_a, lora, lora_matched, full, amplified]"
    for rate in RATES:
        keys = [f"align.arms={names}", f"align.learning_rate={rate}"]
        run = opened(out, threads, [*keys, f"align.random_seeds={seeds}"])
        for row in standings(run):
            yield {"rate": rate, **row}


def causal(out: Path, threads: int, seeds: int) -> Iterator[Row]:
    """Sets by score and position at the primary p, and what suppressing them does to refusal."""
    del seeds
    for score in SCORES:
        for position in POSITIONS:
            for chosen in ("MLS", "all"):
                row: Row = {"score": score, "position": position, "set": chosen}
                keys = [f"identify.score={score}", f"identify.position={position}"]
                run = opened(
                    out,
                    threads,
                    [
                        *keys,
                        f"identify.chosen={chosen}",
                        "identify.positions=" + str(list(POSITIONS)),
                    ],
                )
                try:
                    row["neurons"] = len(api.identify(run).neurons)
                    pooled = api.verify(run).readouts[0]
                except UserError as error:  # an empty set is a result
                    yield {**row, "note": str(error)[:80]}
                    continue
                random = sum(pooled.random) / len(pooled.random)
                yield {
                    **row,
                    "n": pooled.n,
                    "base": round(pooled.base, 3),
                    "change": round(pooled.suppressed - pooled.base, 3),
                    "random_change": round(random - pooled.base, 3),
                    "p_value": pooled.p_value,
                }


PARTS = {"size": size, "arms": arms, "causal": causal}


def tables() -> None:
    """Write every stored result as a Markdown table beside it."""
    for path in sorted((HERE / "results").glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines = [" | ".join(keys), " | ".join("---" for _ in keys)]
        lines += [" | ".join(_shown(row.get(key)) for key in keys) for row in rows]
        text = "\n".join(f"| {line} |" for line in lines)
        path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
        print(path.with_suffix(".md"))


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run one part and keep its rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "tables"])
    parser.add_argument("--out", type=Path, default=Path("runs/study-embedded"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3, help="random-row controls")
    options = parser.parse_args()
    if options.part == "tables":
        tables()
        return
    target = HERE / "results" / f"{options.part}.json"
    target.parent.mkdir(exist_ok=True)
    rows: list[Row] = []
    for row in PARTS[options.part](options.out, options.threads, options.seeds):
        rows.append(row)
        print(json.dumps(row), flush=True)
        target.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    tables()


if __name__ == "__main__":
    main()

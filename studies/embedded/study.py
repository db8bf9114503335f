"""Study 3: what of the papers holds in the embedded world, and does the choice of neurons matter?

    python studies/embedded/study.py PART

PART is one of:
    size    p and form, chosen against random rows
    arms    every arm at the primary p
    sets    every score at every position: sizes, and overlap with the primary choice
    causal  suppression: every score at the primary position, every position with the primary score
    again   suppression in the five models of `chain.py`, which have to be there
    choice  the same choices, tuned, each against its own random rows
    units   feed-forward neurons, attention units, both: suppressed, and tuned
    shared  the set that modalities share, tuned, at p = 10 % and 20 %
    roles   deciding or writing: the sets of the two papers

All figures are of the *validation* split: settings are compared here, so no test set is opened. A
part resumes where it was stopped, for every training and answer is kept in the run folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from statistics import fmean

from precise_shield import api
from precise_shield.core.errors import UserError
from precise_shield.core.rates import or_null
from precise_shield.core.records import Example
from precise_shield.sandbox.build import PLANS
from precise_shield.workflows.align.conditions import aligned_state
from precise_shield.workflows.align.validation import standing, validation_prompts
from precise_shield.workflows.answer.states import base_state
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.verify.panel import Surgery, first_token_readout
from precise_shield.workflows.verify.stage import CONTROL_SEED

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from measured import Row, hits, keep  # noqa: E402

PRIMARY_P = 0.03
SIZES = (0.002, 0.005, 0.01, PRIMARY_P, 0.1, 0.2)
RATES = (5e-3, 2e-2)
RANDOM_SETS = 99
"""Beside each suppressed set, so that p can reach 0.01."""

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

POINTS = [(score, POSITIONS[0]) for score in SCORES] + [(SCORES[0], at) for at in POSITIONS[1:]]
"""Every score at the primary position, and every position with the primary score."""

APART = [point for point in POINTS if "one_anchor" not in point and "prompt_mean" not in point]
"""Without those whose sets hardly differ from the primary one, or least."""

UNITS = {
    "feed-forward": ("ffn",),
    "attention": ("query", "key", "value"),
    "both": ("ffn", "query", "key", "value"),
}
"""A row-masked LoRA has no rows in W_O, so its columns are left out."""

SHARED = ("MLS", "ISN & TSN", "MS:en")


@dataclass(frozen=True)
class Study:
    """Where the study keeps what it does, and how much of it."""

    out: Path
    threads: int
    seeds: int
    """Random-row controls."""

    worlds: Path
    """Models that `chain.py` built."""

    @property
    def beside(self) -> str:
        """So many random-row controls."""
        return f"align.random_seeds={self.seeds}"

    def opened(self, *changes: str) -> Run:
        """The demo's configuration with some keys changed, in the study's one run folder."""
        every = [*FIXED, f"model.threads={self.threads}", *changes]
        return api.open_run(api.parse_config(DEMO, every, "study"), self.out, quiet=True)

    def chosen_by(self, score: str, position: str, *changes: str) -> Run:
        """A run whose neurons one score at one position chose; all share their statistics."""
        every = "identify.positions=" + str(list(POSITIONS))
        keys = [f"identify.score={score}", f"identify.position={position}", every]
        return self.opened(*keys, *changes)


def standings(run: Run) -> Iterator[Row]:
    """The base model and every arm of a configuration, on validation data."""
    prompts = validation_prompts(run)
    arms = api.align(run)
    for arm, state in [(None, base_state()), *((arm, aligned_state(arm)) for arm in arms)]:
        found, _ = standing(run, state, prompts)
        trained = {} if arm is None else {"trained": arm.receipt.trained_with_a}
        yield {"arm": state.name, **found.model_dump(exclude={"condition"}), **trained}


def size(study: Study) -> Iterator[Row]:
    """Chosen rows against random rows, over p, form and learning rate."""
    for form in ("lora_rows", "direct"):
        for p in SIZES:
            for rate in RATES:
                keys = [f"align.form={form}", f"identify.p={p}", f"align.learning_rate={rate}"]
                run = study.opened(*keys, study.beside)
                yield from tuned(run, {"form": form, "p": p, "rate": rate})


def arms(study: Study) -> Iterator[Row]:
    """Every arm of the trainer at the primary p, at both learning rates."""
    names = "[benign_rows, frozen_a, lora, lora_matched, full, amplified]"
    for rate in RATES:
        keys = [f"align.arms={names}", f"align.learning_rate={rate}"]
        run = study.opened(*keys, study.beside)
        for row in standings(run):
            yield {"rate": rate, **row}


def sets(study: Study) -> Iterator[Row]:
    """Sizes of the sets by score and position, and their overlap with the primary choice."""
    primary = api.identify(study.chosen_by(*POINTS[0]))
    for score in SCORES:
        for position in POSITIONS:
            atlas = api.identify(study.chosen_by(score, position))
            row: Row = {"score": score, "position": position}
            for name in ("all", "MLS"):
                ours, theirs = atlas.sets[name], primary.sets[name]
                row[name] = len(ours)
                row[f"{name}_in_primary"] = or_null(ours.share_of(theirs))
                row[f"{name}_chance"] = len(theirs) / sum(atlas.widths.values())
            yield row


def causal(study: Study) -> Iterator[Row]:
    """What suppressing the sets of a score and position does to refusal, at the primary p."""
    for score, position in POINTS:
        for chosen in ("all", "MLS"):
            run = study.chosen_by(score, position, f"identify.chosen={chosen}")
            yield from suppressed(run, {"score": score, "position": position, "set": chosen})


def again(study: Study) -> Iterator[Row]:
    """The same choices in the models that `chain.py` built: other weights, other requests."""
    for world in sorted(study.worlds.glob("*/weights")):
        seed = world.parent.name
        spoken = f"data.languages={list(PLANS['small'].languages)}"
        apart = replace(study, out=study.out / f"world-{seed}")
        for score, position in APART:
            keys = [f"seed={seed}", f"model.path={world}", spoken]
            run = apart.chosen_by(score, position, *keys)
            yield from suppressed(run, {"seed": seed, "score": score, "position": position})


def choice(study: Study) -> Iterator[Row]:
    """Tuning the set of a score and position against random rows of its own, at the primary p."""
    for score, position in APART:
        run = study.chosen_by(score, position, study.beside)
        yield from tuned(run, {"score": score, "position": position})


def units(study: Study) -> Iterator[Row]:
    """Feed-forward neurons, attention units and both: suppressed, and tuned."""
    for name, kinds in UNITS.items():
        run = study.opened(f"identify.units=[{', '.join(kinds)}]", study.beside)
        yield from suppressed(run, {"units": name})
        yield from tuned(run, {"units": name})


def shared(study: Study) -> Iterator[Row]:
    """A set that modalities share, tuned, at those p where `all` has no random control."""
    for p in (p for p in SIZES if p > PRIMARY_P):
        run = study.opened(f"identify.p={p}", f"identify.chosen={SHARED[1]}", study.beside)
        yield from tuned(run, {"p": p, "set": SHARED[1]})


def roles(study: Study) -> Iterator[Row]:
    """Whether the sets of the papers decide to refuse or write refusals."""
    names = ["chosen", *SHARED]
    keys = ["verify.random_sets=1", "verify.roles.sets=" + str(names)]
    run = study.opened(*keys, "verify.roles.random_sets=39")
    for role in api.verify(run).causal.roles:
        yield {"set": role.of, "neurons": role.neurons, "verdict": role.verdict, "why": role.reason}


def suppressed(run: Run, row: Row) -> Iterator[Row]:
    """First-token refusal log-odds with the chosen set at zero, beside matched random sets.

    Read on every prompt that the untouched model refuses: elsewhere is no refusal to take away.
    """
    try:
        surgery = Surgery(run)
        chosen = surgery.atlas.neurons
        off = [chosen, *surgery.random(chosen, RANDOM_SETS, CONTROL_SEED)]
    except UserError as error:  # an empty set is a result
        yield {**row, "note": str(error)[:80]}
        return
    prompts = refused(run)
    readout = first_token_readout(run, prompts)
    base = float(readout().mean())
    moved = []
    for neurons in off:
        with surgery.off(neurons)():
            moved.append(float(readout().mean()) - base)
    ours, random = moved[0], moved[1:]
    yield {
        **row,
        "neurons": len(chosen),
        "n": len(prompts),
        "base": round(base, 2),
        "change": round(ours, 3),
        "random": [round(each, 3) for each in (fmean(random), min(random), max(random))],
        "random_sets": len(random),
        "p_value": (1 + sum(value <= ours for value in random)) / (1 + len(random)),
    }


def refused(run: Run) -> list[Example]:
    """The harmful validation prompts that the untouched model refuses."""
    prompts = validation_prompts(run)
    _, verdicts = standing(run, base_state(), prompts)
    found = hits(run, prompts, verdicts, "base", "refusal_harmful")
    return [prompt for prompt in prompts if found.get(prompt.id)]


def tuned(run: Run, row: Row) -> Iterator[Row]:
    """Rows of the base model and every arm; or why there is none."""
    try:
        row = {**row, "neurons": len(api.identify(run).neurons)}
        yield from [{**row, **found} for found in standings(run)]
    except UserError as error:  # an empty set, or more than half of a layer: no random control
        yield {**row, "note": str(error)[:80]}


PARTS = {
    "size": size,
    "arms": arms,
    "sets": sets,
    "causal": causal,
    "again": again,
    "choice": choice,
    "units": units,
    "shared": shared,
    "roles": roles,
}


def main() -> None:
    """Run one part and keep its rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, default=Path("runs/study-embedded"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3, help="random-row controls")
    parser.add_argument("--worlds", type=Path, default=Path("runs/study-chain/worlds"))
    options = vars(parser.parse_args())
    part = str(options.pop("part"))
    rows: list[Row] = []
    for row in PARTS[part](Study(**options)):
        rows.append(row)
        print(json.dumps(row), flush=True)
        keep(HERE / "results", part, rows)


if __name__ == "__main__":
    main()

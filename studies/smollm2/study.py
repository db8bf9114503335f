"""Study 1: do the papers' claims hold for SmolLM2-135M-Instruct, in English?

    python studies/smollm2/study.py PART --data DATA --model MODEL

PART is one of, in this order:
    choose   learning rate and position, chosen and random rows, on validation prompts
    seeds    chosen and random rows, three trainings each (two at the high rate), on test prompts
    arms     every other arm on test prompts, the dense ones after a search on validation
    matched  the other arms over three seeds at the chosen rows' benign KL, on test prompts
    causal   suppression before and after alignment, beside matched random neurons
    elsewhere   the chosen set at zero in models where other rows learnt to refuse
    separation  AUC of the first-token refusal log-odds, harmful against topic-matched benign
    again    every kept answer to test prompts read by the judge as it is now
    utility  sentences repeated and short MMLU questions, before and after
    curve    p from 0.3 % to 20 %, chosen and random rows, on validation prompts
    scores   sets of other scores: their overlap, and a training of each, on validation prompts

DATA holds the folders `polyrefuse`, `multijail`, `xstest`, `multiq` and `global_mmlu_lite`; MODEL
is a folder or file of SmolLM2-135M-Instruct, or its hub id. Every training and answer is kept in
`--out`, so a part that was stopped goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import log
from pathlib import Path

from precise_shield import api
from precise_shield.core.errors import UserError
from precise_shield.core.records import Response, read_rows
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.store import read_json
from precise_shield.core.summary import Measure
from precise_shield.evaluate.judges import JUDGES
from precise_shield.workflows.align.arms import configured, make
from precise_shield.workflows.align.conditions import aligned_state
from precise_shield.workflows.align.plans import Plan, plans
from precise_shield.workflows.answer.states import base_state
from precise_shield.workflows.base.context import Run

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from basis import (  # noqa: E402
    MEASURES,
    RATES,
    SEEDS,
    Study,
    best,
    settled,
    size,
    test_prompts,
    trial,
)
from measured import Row, Table, counted, gap_over_seeds, hits, measured, over_seeds, run_part  # noqa: E402
from readings import causal, elsewhere, separation, utility  # noqa: E402

POSITIONS = ("response_mean", "last_prompt")
SIZES = (0.003, 0.03, 0.1, 0.01, 0.2)
SCORES = ("precise_shield", "effect_size", "contrastive_difference", "one_anchor")
SEARCH: dict[str, tuple[float, ...]] = {
    "lora": (1e-3, 3e-3),
    "full": (1e-4, 1e-3),
    "benign-rows": (3e-3,),
    "frozen-a": (3e-3,),
    "lora-matched": (3e-3,),
    "amplified": (),
    "random-amplified": (),
}
"""Learning rates that the other arms are tried at."""

MATCHED: dict[str, float | None] = {
    "lora": 3.5e-4,
    "benign-rows": None,
    "amplified": None,
    "random-amplified": None,
    "lora-matched": 1e-3,
    "full": 3.5e-5,
}
"""Arms over several seeds: rate that the search begins at; none where the primary one is used."""

NEAR = 1.25
"""Factor within which two benign KLs count as matched."""


def choose(study: Study) -> Iterator[Row]:
    """Rates at the default position, and the other position at the better rate alone."""
    rows: list[Row] = []
    for position in POSITIONS:
        first = position == POSITIONS[0]
        run = study.opened(f"identify.position={position}")
        made = {plan.condition.name: plan for plan in plans(run, api.identify(run))}
        for rate in RATES if first else (float(str(best(rows)["rate"])),):
            for name in ("aligned", "random-rows-0") if first else ("aligned",):
                rows.append({"position": position, **trial(run, made[name], rate)})
                yield rows[-1]
    yield {**best([row for row in rows if row["position"] == POSITIONS[0]]), "picked": True}


def seeds(study: Study) -> Iterator[Row]:
    """Trainings of the chosen rows and as many sets of random rows, on test prompts."""
    for rate, trainings in ((RATES[0], SEEDS), (RATES[-1], SEEDS[:2])):
        ours: dict[str, list[Table]] = {}
        theirs: dict[str, list[Table]] = {}
        for seed in trainings:
            run, made = settled(study, seed, rate)
            examples = test_prompts(run)
            if (rate, seed) == (RATES[0], 0):
                yield measured(run, base_state(), examples)[0]
            for name, side in (("aligned", ours), (f"random-rows-{seed}", theirs)):
                arm = make(run, made[name], configured(run))
                row, verdicts = measured(run, aligned_state(arm), examples)
                for measure in MEASURES:
                    table = hits(run, examples, verdicts, name, measure)
                    side.setdefault(measure, []).append(table)
                yield {"rate": rate, "seed": seed, **row, **size(arm)}
        groups = {example.id: example.group for example in examples}
        for measure in MEASURES:
            found = over_seeds(ours[measure], theirs[measure], groups)
            yield {"rate": rate, "arm": f"chosen minus random: {measure}", **found}


def arms(study: Study) -> Iterator[Row]:
    """The other arms on test prompts; dense ones after a search on validation prompts."""
    run, made = settled(study, 0)
    examples = test_prompts(run)
    given = configured(run)
    for name, rates in SEARCH.items():
        plan, used = made[name], given
        if len(rates) > 1:
            tried = [trial(run, plan, rate) for rate in rates]
            yield from ({"split": "validation", **row} for row in tried)
            used = replace(given, learning_rate=float(str(best(tried, name)["rate"])))
        arm = make(run, plan, used)
        row, _ = measured(run, aligned_state(arm), examples)
        yield {"split": "test", "rate": used.learning_rate, **row, **size(arm)}


def matched(study: Study) -> Iterator[Row]:
    """Every other arm, dense ones at a rate with the benign KL of the chosen rows, and differences.

    Rates are found on validation prompts with seed 0. Amplified arms are not trained: one each.
    """
    run, made = settled(study, 0)
    aim = trial(run, made["aligned"], RATES[0])
    yield {"split": "validation", **aim}
    ours: dict[Measure, list[Table]] = {measure: [] for measure in MEASURES}
    _ = [*on_test(study, "aligned", RATES[0], SEEDS, ours)]
    for name, start in MATCHED.items():
        rate = RATES[0]
        if start is not None:
            tried = [*approached(run, made[name], start, float(str(aim["benign_kl"])))]
            yield from ({"split": "validation", **row} for row in tried)
            rate = float(str(tried[-1]["rate"]))
        tables: dict[Measure, list[Table]] = {measure: [] for measure in MEASURES}
        trained = not name.endswith("amplified")
        yield from on_test(study, name, rate, SEEDS if trained else SEEDS[:1], tables)
        groups = {example.id: example.group for example in test_prompts(run)}
        for measure in MEASURES:
            found = over_seeds(tables[measure], ours[measure], groups)
            yield {"rate": rate, "arm": f"{name} minus chosen: {measure}", **found}


def approached(run: Run, plan: Plan, rate: float, aim: float) -> Iterator[Row]:
    """Trials on validation prompts, at most three, until the benign KL is `NEAR` the `aim`."""
    for _ in range(3):
        row = trial(run, plan, rate)
        yield row
        kl = float(str(row["benign_kl"]))
        if abs(log(kl / aim)) < log(NEAR):
            return
        rate = float(f"{rate * aim / kl:.1e}")


def on_test(
    study: Study,
    name: str,
    rate: float,
    trainings: Sequence[int],
    tables: dict[Measure, list[Table]],
) -> Iterator[Row]:
    """Trainings of an arm on test prompts, a row each; outcomes are added to `tables`."""
    for seed in trainings:
        run, made = settled(study, seed)
        examples = test_prompts(run)
        arm = make(run, made[name], replace(configured(run), learning_rate=rate))
        row, verdicts = measured(run, aligned_state(arm), examples)
        for measure in MEASURES:
            tables[measure].append(hits(run, examples, verdicts, name, measure))
        yield {"split": "test", "rate": rate, "seed": seed, **row, **size(arm)}


def again(study: Study) -> Iterator[Row]:
    """Every kept answer to test prompts read by the judge as it is now; no model is loaded."""
    run = study.opened()
    tests = {row.id: row for row in test_prompts(run)}
    reader = JUDGES[run.config.evaluate.judge](list(tests.values()))
    tables: dict[tuple[float, str, Measure], list[Table]] = {}
    rows: list[Row] = []
    for folder in sorted((study.out / "stages" / "respond").iterdir()):
        path = folder / "responses.jsonl"
        said = list(read_rows(path, Response)) if path.is_file() else []
        if {each.example for each in said} != tests.keys():
            continue
        examples, name = [tests[each.example] for each in said], said[0].condition
        verdicts = [
            replace(verdict, condition=name)
            for verdict in reader.judge(list(zip(examples, said, strict=True)))
        ]
        row, found = trained_as(study.out, folder), counted(run, name, examples, verdicts)
        rows.append({**row, **found})
        for measure in MEASURES:
            table = hits(run, examples, verdicts, name, measure)
            side = "random" if name.startswith("random-rows") else name
            tables.setdefault((float(str(row.get("rate", 0))), side, measure), []).append(table)
    yield from sorted(rows, key=lambda row: [str(row.get(k)) for k in ("arm", "rate", "seed")])
    groups = {row.id: row.group for row in tests.values()}
    for rate, name in sorted({key[:2] for key in tables} - {(0.0, "base")}):
        against = (rate if name == "random" else RATES[0], "aligned")
        if name == "aligned" or (*against, MEASURES[0]) not in tables:
            continue
        arm: Row = {"rate": rate or None, "arm": f"{name} minus chosen"}
        both = [[tables[(*key, each)] for each in MEASURES] for key in ((rate, name), against)]
        for measure, ours, theirs in zip(MEASURES, *both, strict=True):
            yield {**arm, "measure": measure, **over_seeds(ours, theirs, groups)}
        one, two = (list(zip(*side, strict=True)) for side in both)
        yield {**arm, "measure": "gap", **gap_over_seeds(one, two, groups)}


def trained_as(out: Path, folder: Path) -> Row:
    """Rate and seed of the training that an answer's stage names; nothing for the base model."""
    key = read_json(folder / "stage.json")["made_by"]["state"]
    path = out / "stages" / "align" / key / "stage.json"
    if not path.is_file():
        return {}
    fit = read_json(path)["made_by"].get("fit")
    return {} if fit is None else {"rate": fit["learning_rate"], "seed": fit["seed"]}


def curve(study: Study) -> Iterator[Row]:
    """Chosen and random rows over p, on validation prompts."""
    for p in SIZES:
        try:
            run, made = settled(study, 0, RATES[0], f"identify.p={p}")
            for name in ("aligned", "random-rows-0"):
                yield {"p": p, **trial(run, made[name], RATES[0])}
        except UserError as error:  # more than half of a layer has no random control
            yield {"p": p, "note": str(error)[:80]}


def scores(study: Study) -> Iterator[Row]:
    """Sets that each score chooses at the primary p: what they share, and a training of each."""
    runs = [settled(study, 0, RATES[0], f"identify.score={name}") for name in SCORES]
    atlases = [api.identify(run) for run, _ in runs]
    widths = atlases[0].widths
    for i, j in combinations(range(len(SCORES)), 2):
        one, two = atlases[i].neurons, atlases[j].neurons
        smaller = min(len(one), len(two))
        yield {
            "score": f"{SCORES[i]} and {SCORES[j]}",
            "share_of_smaller": round(len(one & two) / smaller, 3),
            "chance": round(by_chance(one, two, widths) / smaller, 3),
            "n": smaller,
        }
    for score, (run, made) in zip(SCORES, runs, strict=True):
        yield {"score": score, **trial(run, made["aligned"], RATES[0])}


def by_chance(one: NeuronSet, two: NeuronSet, widths: Mapping[Site, int]) -> float:
    """Neurons that two sets of such sizes share in each layer if they are drawn independently."""
    counts = two.counts()
    return sum(n * counts.get(site, 0) / widths[site] for site, n in one.counts().items())


PARTS: dict[str, Callable[[Study], Iterator[Row]]] = {
    "choose": choose,
    "seeds": seeds,
    "arms": arms,
    "matched": matched,
    "causal": causal,
    "elsewhere": elsewhere,
    "separation": separation,
    "utility": utility,
    "again": again,
    "curve": curve,
    "scores": scores,
}


if __name__ == "__main__":
    run_part(
        PARTS,
        Study,
        HERE / "results",
        title=(__doc__ or "").splitlines()[0],
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        out="runs/study-smollm2",
    )

"""Study 1: do the papers' claims hold for SmolLM2-135M-Instruct, in English?

    python studies/smollm2/study.py PART --data DATA --model MODEL

PART is one of, in this order:
    choose   learning rate and position, chosen and random rows, on validation prompts
    seeds    chosen and random rows, three trainings each (two at the high rate), on test prompts
    arms     every other arm on test prompts, the dense ones after a search on validation
    matched  the sparse arms and plain LoRA over three seeds, on test prompts
    dense    LoRA of the same size, full and A frozen likewise, at the chosen rows' benign KL
    causal   suppression before and after alignment, beside matched random neurons
    elsewhere   the chosen set at zero in models where other rows learnt to refuse
    separation  AUC of the first-token refusal log-odds, harmful against topic-matched benign
    again    every kept answer to test prompts read by the judge as it is now
    abilities   everyday goals and steps, four options, before and after (BIG-bench)
    utility  sentences repeated and short MMLU questions, before and after
    curve    p from 0.3 % to 20 %, chosen and random rows, on validation prompts
    scores   sets of other scores: their overlap, and a training of each, on validation prompts

DATA holds the folders `polyrefuse`, `multijail`, `xstest`, `multiq`, `global_mmlu_lite` and, for
`abilities`, `bigbench` (`bigbench/benchmark_tasks` of PyPI `bigbench` 1.0.0); MODEL
is a folder or file of SmolLM2-135M-Instruct, or its hub id. Every training and answer is kept in
`--out`, so a part that was stopped goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import exp, log
from pathlib import Path

import numpy as np

from precise_shield import api
from precise_shield.core.errors import UserError
from precise_shield.core.records import Example, Response, read_rows
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.core.store import read_json
from precise_shield.core.summary import Measure
from precise_shield.evaluate.counting.statistics import auc
from precise_shield.evaluate.judging.judges import JUDGES
from precise_shield.workflows.align.arms import Arm, configured, make
from precise_shield.workflows.align.conditions import aligned_state
from precise_shield.workflows.align.plans import Plan, plans
from precise_shield.workflows.align.validation import validation_prompts
from precise_shield.workflows.answer.judging import drift
from precise_shield.workflows.answer.states import State, base_state, respond
from precise_shield.workflows.base.context import Run

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from basis import (  # noqa: E402
    MEASURES,
    RATES,
    SEEDS,
    Study,
    attempt,
    best,
    settled,
    size,
    test_prompts,
    trial,
)
from measured import Row, Table, counted, gap_over_seeds, hits, measured, over_seeds, run_part  # noqa: E402
from options import abilities  # noqa: E402
from readings import (  # noqa: E402
    Floats,
    causal,
    elsewhere,
    over_prompts,
    refusal_odds,
    separation,
    utility,
)

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
}
DENSE: dict[str, float | None] = {
    "lora-matched": 1e-3,
    "full": 4e-5,
    "frozen-a": 0.03,
    "lora": 5.5e-4,
}
"""Arms over several seeds: rate that the search begins at; none where the primary one is used."""

NEAR = 1.25
"""Factor within which two benign KLs count as matched."""

TRIES = 4
"""Rates tried at most until they do."""


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
    """Sparse arms at the primary rate, and plain LoRA at one of like cost, beside the chosen rows.

    Amplified arms are not trained: one each.
    """
    yield from at_like_cost(study, MATCHED)


def dense(study: Study) -> Iterator[Row]:
    """Arms that train other weights than the chosen rows do, each at a rate of like cost."""
    yield from at_like_cost(study, DENSE)


def at_like_cost(study: Study, starts: Mapping[str, float | None]) -> Iterator[Row]:
    """Arms over several seeds on test prompts, and their differences from the chosen rows.

    The rate is found with seed 0, by benign KL on validation prompts and nothing else.
    """
    run, made = settled(study, 0)
    groups = {example.id: example.group for example in test_prompts(run)}
    aim = moved(run, made["aligned"], RATES[0])
    yield {"split": "validation", **aim}
    ours = Trainings("aligned")
    yield from on_test(study, RATES[0], SEEDS, ours)
    for name, start in starts.items():
        rate = RATES[0]
        if start is not None:
            tried = [*approached(run, made[name], start, float(str(aim["benign_kl"])))]
            yield from ({"split": "validation", **row} for row in tried)
            rate = nearest(tried, float(str(aim["benign_kl"])))
        found = Trainings(name)
        yield from on_test(study, rate, SEEDS[:1] if name.endswith("amplified") else SEEDS, found)
        yield from ({"rate": rate, **row} for row in found.minus(ours, groups))


def moved(run: Run, plan: Plan, rate: float) -> Row:
    """One training, and the benign KL it costs on validation prompts; nothing is judged."""

    def read(where: State) -> Row:
        prompts = validation_prompts(run)
        said = {each.example: each.text for each in respond(run, base_state(), prompts)}
        return {"benign_kl": drift(run, where, prompts, said)}

    return attempt(run, plan, rate, read)


def approached(run: Run, plan: Plan, rate: float, aim: float) -> Iterator[Row]:
    """Trainings, at most `TRIES`, until the benign KL is `NEAR` the `aim`.

    The next rate is read off a power of the rate: its square at first, then the power through
    the two nearest trainings. One that did not stay finite halves the rate.
    """
    known: list[tuple[float, float]] = []
    for _ in range(TRIES):
        row = moved(run, plan, rate)
        yield row
        if "note" in row:
            rate = float(f"{rate / 2:.1e}")
            continue
        known.append((log(rate), log(float(str(row["benign_kl"])) / aim)))
        known.sort(key=lambda point: abs(point[1]))
        (at, off), power = known[0], 2.0
        if abs(off) < log(NEAR):
            return
        if len(known) > 1:
            power = max(0.5, (known[1][1] - off) / (known[1][0] - at))
        rate = float(f"{exp(at - off / power):.2g}")


def nearest(tried: Sequence[Row], aim: float) -> float:
    """Rate of the training whose benign KL is nearest the `aim`, as a factor."""
    known = [row for row in tried if "note" not in row]
    row = min(known, key=lambda row: abs(log(float(str(row["benign_kl"])) / aim)))
    return float(str(row["rate"]))


@dataclass
class Trainings:
    """An arm's trainings on test prompts: who was refused, and the first token's log-odds."""

    name: str
    tables: dict[Measure, list[Table]] = field(default_factory=dict)
    odds: list[Floats] = field(default_factory=list)
    labels: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, run: Run, arm: Arm, examples: list[Example]) -> Row:
        """Answer, judge, count and read the log-odds of one more training."""
        state = aligned_state(arm)
        row, verdicts = measured(run, state, examples)
        for measure in MEASURES:
            table = hits(run, examples, verdicts, self.name, measure)
            self.tables.setdefault(measure, []).append(table)
        odds, self.labels = refusal_odds(run, state, examples)
        self.odds.append(odds)
        return {**row, "auc": auc(odds, self.labels)}

    def minus(self, other: Trainings, groups: Mapping[str, str]) -> Iterator[Row]:
        """Differences from another arm, drawn over trainings and prompts, a row a measure."""
        arm = f"{self.name} minus chosen"
        for measure in MEASURES:
            found = over_seeds(self.tables[measure], other.tables[measure], groups)
            yield {"arm": arm, "measure": measure, **found}
        one, two = (
            list(zip(*(side.tables[each] for each in MEASURES), strict=True))
            for side in (self, other)
        )
        yield {"arm": arm, "measure": "gap", **gap_over_seeds(one, two, groups)}
        difference = over_prompts(self.odds, other.odds, self.labels, auc, against=True)
        yield {"arm": arm, "measure": "auc", "difference": difference}


def on_test(study: Study, rate: float, seeds: Sequence[int], trainings: Trainings) -> Iterator[Row]:
    """Trainings of an arm on test prompts, a row each; what they say is added to `trainings`."""
    for seed in seeds:
        run, made = settled(study, seed)
        arm = make(run, made[trainings.name], replace(configured(run), learning_rate=rate))
        row = trainings.add(run, arm, test_prompts(run))
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
    keys = [(f"identify.score={name}", "align.arms=[]") for name in SCORES]
    runs = [settled(study, 0, RATES[0], *each) for each in keys]
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
    "dense": dense,
    "causal": causal,
    "elsewhere": elsewhere,
    "separation": separation,
    "utility": utility,
    "abilities": abilities,
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

"""Study 1: do the papers' claims hold for SmolLM2-135M-Instruct, in English?

    python studies/smollm2/study.py PART --data DATA --model MODEL

PART is one of, in this order:
    choose   learning rate and position, chosen and random rows, on validation prompts
    seeds    chosen and random rows, three trainings each (two at the high rate), on test prompts
    arms     every other arm on test prompts, the dense ones after a search on validation
    causal   suppression before and after alignment, beside matched random neurons
    elsewhere   the chosen set at zero in models where other rows learnt to refuse
    separation  AUC of the first-token refusal log-odds, harmful against topic-matched benign
    again    every kept answer to test prompts read by the judge as it is now
    utility  harmless sentences repeated word for word
    curve    p from 1 % to 10 %, chosen and random rows, on validation prompts

DATA holds the folders `polyrefuse`, `multijail`, `xstest` and `multiq`; MODEL is a folder or file
of SmolLM2-135M-Instruct, or its hub id. Every training and answer is kept in `--out`, so a part
that was stopped goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from precise_shield import api
from precise_shield.core.errors import NumericError
from precise_shield.core.records import Example, Response, read_rows
from precise_shield.core.sites import NeuronSet
from precise_shield.core.store import digest, read_json
from precise_shield.core.summary import Condition, Measure
from precise_shield.data.abilities import abilities
from precise_shield.data.gather import limited
from precise_shield.evaluate.judges import JUDGES
from precise_shield.evaluate.measures import rate_of
from precise_shield.evaluate.statistics import auc
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.models.bind import BoundModel
from precise_shield.models.readout import FirstTokenReadout
from precise_shield.workflows.align.arms import Arm, configured, make
from precise_shield.workflows.align.conditions import aligned_state
from precise_shield.workflows.align.plans import Plan, plans
from precise_shield.workflows.align.validation import standing, validation_prompts
from precise_shield.workflows.answer.states import State, base_state, respond
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.openings import log_opening
from precise_shield.workflows.verify.panel import Surgery, first_token_readout
from precise_shield.workflows.verify.stage import CONTROL_SEED

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from measured import Row, Table, counted, hits, interval, measured, over_seeds, run_part  # noqa: E402

RATES = (3e-3, 5e-3, 1e-2)
POSITIONS = ("response_mean", "last_prompt")
SIZES = (0.01, 0.05, 0.1)
SEEDS = (0, 1, 2)
TEST = {"multijail": 48, "xstest": 40, "multiq": 8}
MEASURES: tuple[Measure, ...] = ("attack_success", "refusal_matched")
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

RANDOM_ANSWERED = 3
REPEATED = 40
MOST = 0.2
"""Over-refusal on validation prompts that a picked setting may have."""


Settled = tuple[Run, dict[str, Plan]]


@dataclass(frozen=True)
class Study:
    """Where everything is."""

    data: Path
    model: str
    out: Path

    def opened(self, *changes: str) -> Run:
        """The study's configuration with some keys changed, in its one run folder."""
        names = ("polyrefuse",) * 4 + ("xstest",) * 2 + ("multijail", "multiq")
        where = [f"data.sources.{i}.path={self.data / name}" for i, name in enumerate(names)]
        where += [f"model.path={self.model}", "model.threads=1"]
        text = (HERE / "study.yaml").read_text(encoding="utf-8")
        return api.open_run(api.parse_config(text, [*where, *changes], "study"), self.out)


def trial(run: Run, plan: Plan, rate: float) -> Row:
    """One training, measured on validation prompts."""
    settings = replace(configured(run), learning_rate=rate)
    try:
        arm = make(run, plan, settings)
    except NumericError as error:
        return {"arm": plan.condition.name, "rate": rate, "note": str(error)[:60]}
    found, _ = standing(run, aligned_state(arm), validation_prompts(run))
    row = found.model_dump(exclude={"condition", "contrast"})
    return {"arm": plan.condition.name, "rate": rate, **row, **size(arm)}


def size(arm: Arm) -> Row:
    """How much was trained."""
    receipt = arm.receipt
    return {"neurons": len(arm.neurons), "trained": receipt.trained_with_a}


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


def best(rows: Sequence[Row], arm: str = "aligned") -> Row:
    """The trial of an arm with the largest gap, those within `MOST` first."""
    known = [row for row in rows if row["arm"] == arm and isinstance(row.get("gap"), float)]
    return max(known, key=lambda row: (float(str(row["over_refusal"])) <= MOST, row["gap"]))


def settled(study: Study, seed: int, rate: float = RATES[0], *changes: str) -> Settled:
    """The frozen configuration with one training seed and rate."""
    keys = [f"align.learning_rate={rate}", f"align.seed={seed}", "evaluate.kl_rows=16"]
    run = study.opened(*keys, *changes)
    return run, {plan.condition.name: plan for plan in plans(run, api.identify(run))}


def test_prompts(run: Run) -> list[Example]:
    """The test prompts: `TEST` of each set, chosen by hash."""
    rows = run.examples("test")
    log_opening(run, rows)
    parts = [limited([r for r in rows if r.source == name], most) for name, most in TEST.items()]
    return [row for part in parts for row in part]


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


def causal(study: Study) -> Iterator[Row]:
    """The tuned set at zero in the untouched and in the aligned model, beside matched random sets.

    Validation prompts: judged answers beside `RANDOM_ANSWERED` random sets, and the first-token
    refusal log-odds beside `verify.random_sets` of them.
    """
    run, made = settled(study, 0)
    prompts = validation_prompts(run)
    harmful = [example for example in prompts if example.harm == "harmful"]
    surgery, readout = Surgery(run), first_token_readout(run, harmful)
    chosen = surgery.atlas.neurons
    drawn = surgery.random(chosen, run.config.verify.random_sets, CONTROL_SEED)
    aligned = aligned_state(make(run, made["aligned"], configured(run)))
    for state in (base_state(), aligned):
        yield silenced(run, state, readout, [chosen, *drawn], len(harmful))
    named = {"nothing": None, "chosen": chosen}
    named |= {f"random {i}": drawn[i] for i in range(RANDOM_ANSWERED)}
    for what, neurons in named.items():
        row, _ = measured(run, suppressed(aligned, what, neurons), prompts)
        yield {"model": "aligned", "suppressed": what, **row}


def silenced(
    run: Run, state: State, readout: FirstTokenReadout, sets: Sequence[NeuronSet], n: int
) -> Row:
    """Mean refusal log-odds with nothing, the first set, and each other set at zero."""
    with state.enter(run.bound):
        odds = [float(readout().mean())]
        for neurons in sets:
            with intervening(run.bound, neurons, suppress):
                odds.append(float(readout().mean()))
    at_most = sum(value <= odds[1] for value in odds[2:])
    return {
        "model": state.name,
        "suppressed": "log-odds of a refusal",
        "before": odds[0],
        "chosen": odds[1],
        "random": sum(odds[2:]) / (len(sets) - 1),
        "p": (1 + at_most) / len(sets),
        "n": n,
    }


def elsewhere(study: Study) -> Iterator[Row]:
    """The chosen set at zero where others learnt to refuse.

    In the model that tuned it, zeroing a set undoes the training and nothing else. Here it is
    put to zero in models whose refusal was trained into random rows, or into all of them.
    """
    run, made = settled(study, 0)
    harmful = [e for e in validation_prompts(run) if e.harm == "harmful"]
    surgery, readout = Surgery(run), first_token_readout(run, harmful)
    chosen = surgery.atlas.neurons
    sets = [chosen, *surgery.random(chosen, run.config.verify.random_sets, CONTROL_SEED)]
    rates = {"random-rows-0": RATES[0], **{name: each[-1] for name, each in SEARCH.items() if each}}
    for name in ("random-rows-0", "lora"):
        used = replace(configured(run), learning_rate=rates[name])
        state = aligned_state(make(run, made[name], used))
        yield {"rate": rates[name], **silenced(run, state, readout, sets, len(harmful))}


def suppressed(state: State, what: str, neurons: NeuronSet | None) -> State:
    """A state of the model with neurons at zero on top of it."""
    if neurons is None:
        return state

    @contextmanager
    def enter(bound: BoundModel) -> Iterator[None]:
        with state.enter(bound), intervening(bound, neurons, suppress):
            yield

    condition = Condition(
        name=f"{state.name}, {what} at zero", kind="suppressed", label=what, note="in memory only"
    )
    return State(condition, enter, {**state.made_by, "zero": digest(neurons.to_json())})


def separation(study: Study) -> Iterator[Row]:
    """AUC of the first-token refusal log-odds, MultiJail against XSTest safe, arm by arm."""
    for seed in SEEDS:
        run, made = settled(study, seed)
        examples = [e for e in test_prompts(run) if e.harm == "harmful" or e.matched]
        labels = [example.harm == "harmful" for example in examples]
        readout = first_token_readout(run, examples)
        states = [
            aligned_state(make(run, made[name], configured(run)))
            for name in ("aligned", f"random-rows-{seed}")
        ]
        for state in [base_state(), *states] if seed == 0 else states:
            with state.enter(run.bound):
                odds = readout().tolist()
            row: Row = {"arm": state.name, "seed": seed, "auc": auc(odds, labels)}
            for harm, wanted in (("harmful", True), ("benign", False)):
                values = [v for v, label in zip(odds, labels, strict=True) if label is wanted]
                row[f"log_odds_{harm}"] = sum(values) / len(values)
            yield row


def utility(study: Study) -> Iterator[Row]:
    """Harmless sentences repeated word for word: what the model can do, and a refuser cannot."""
    ask = abilities("en")
    assert ask is not None
    for seed in SEEDS:
        run, made = settled(study, seed)
        rows = [row for row in run.examples("probe") if row.harm == "benign"][:REPEATED]
        asked = [
            replace(
                row,
                id=f"{row.id}:repeat",
                prompt=ask.repeat.format(text=row.prompt),
                target=None,
            )
            for row in rows
        ]
        names = ("aligned", f"random-rows-{seed}")
        states = [aligned_state(make(run, made[n], configured(run))) for n in names]
        for state in [base_state(), *states] if seed == 0 else states:
            said = {each.example: each.text for each in respond(run, state, asked)}
            found = rate_of([plain(row.prompt) in plain(said[f"{row.id}:repeat"]) for row in rows])
            values = (found.value, *found.interval())
            row: Row = {"seed": seed, "arm": state.name}
            yield {**row, "repeated": interval(*(100 * v for v in values)), "n": len(rows)}


def again(study: Study) -> Iterator[Row]:
    """Every kept answer to test prompts read by the judge as it is now; no model is loaded."""
    run = study.opened()
    tests = {row.id: row for row in test_prompts(run)}
    reader = JUDGES[run.config.evaluate.judge](list(tests.values()))
    tables: dict[tuple[float, str, Measure], list[Table]] = {}
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
        yield {**row, **found}
        for measure in MEASURES:
            table = hits(run, examples, verdicts, name, measure)
            side = "random" if name.startswith("random-rows") else name
            tables.setdefault((float(str(row.get("rate", 0))), side, measure), []).append(table)
    groups = {row.id: row.group for row in tests.values()}
    for rate in (RATES[0], RATES[-1]):
        for measure in MEASURES:
            ours, theirs = (tables.get((rate, n, measure), []) for n in ("aligned", "random"))
            if ours and theirs:
                found = over_seeds(ours, theirs, groups)
                yield {"rate": rate, "arm": f"chosen minus random: {measure}", **found}


def trained_as(out: Path, folder: Path) -> Row:
    """Rate and seed of the training that an answer's stage names; nothing for the base model."""
    key = read_json(folder / "stage.json")["made_by"]["state"]
    path = out / "stages" / "align" / key / "stage.json"
    if not path.is_file():
        return {}
    fit = read_json(path)["made_by"].get("fit")
    return {} if fit is None else {"rate": fit["learning_rate"], "seed": fit["seed"]}


def plain(text: str) -> str:
    """Words alone, in lower case."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def curve(study: Study) -> Iterator[Row]:
    """Chosen and random rows over p, on validation prompts."""
    for p in SIZES:
        run, made = settled(study, 0, RATES[0], f"identify.p={p}")
        for name in ("aligned", "random-rows-0"):
            yield {"p": p, **trial(run, made[name], RATES[0])}


PARTS: dict[str, Callable[[Study], Iterator[Row]]] = {
    "choose": choose,
    "seeds": seeds,
    "arms": arms,
    "causal": causal,
    "elsewhere": elsewhere,
    "separation": separation,
    "utility": utility,
    "again": again,
    "curve": curve,
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

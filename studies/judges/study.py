"""Study of the built-in refusal classifier: its errors on real answers, by language and arm.

    python studies/judges/study.py sheet --runs RUN ... --data DATA --out SHEET.csv --size 240
    python studies/judges/study.py table --runs RUN ...

`sheet` draws answers of finished runs, evenly over language, arm and harm, and writes them in
random order with a key, their language and their text: no arm, no verdict, no prompt. Who labels it
adds a column `label` (refusal, compliance, other) and keeps key, language, harm and label alone, as
in `labels.csv` here. `table` reads those answers anew with the classifier and counts its errors on
each half of the labels: the rules were mended on `fit`, `report` is the figure to quote.

The labels were made by a language model, not by people. DATA holds the sets that the runs read.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import defaultdict
from pathlib import Path

from precise_shield.core.records import Example
from precise_shield.data.sources import SourceOptions, load_source
from precise_shield.evaluate.refusal_error import key_of
from precise_shield.workflows.judge_error import (
    arm_of,
    error_table,
    judge_errors,
    responses,
)

HERE = Path(__file__).parent
SOURCES = ("polyrefuse", "multijail", "xstest", "multiq", "advbench", "or_bench")


def asked(data: Path) -> dict[str, Example]:
    """Every prompt of the sets, by id."""
    found = {}
    for name in SOURCES:
        if (data / name).exists():
            rows = load_source(name, SourceOptions(path=data / name, on_bad_row="skip"))
            found |= {row.id: row for row in rows.examples}
    return found


def sheet(runs: list[Path], data: Path, out: Path, size: int, known: Path) -> int:
    """Draw answers that are not labelled yet; returns how many."""
    rows = known.read_text(encoding="utf-8").splitlines()[1:] if known.is_file() else []
    done = {line.split(",")[0] for line in rows}
    examples = asked(data)
    piles: defaultdict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for said in responses(runs):
        example, key = examples.get(said.example), key_of(said.example, said.text)
        if example is not None and key not in done:
            piles[example.language, arm_of(said.condition), example.harm][key] = said.text
    dice = random.Random(0)
    decks = {place: dice.sample(sorted(pile.items()), len(pile)) for place, pile in piles.items()}
    chosen: dict[str, tuple[str, str, str]] = {}
    for turn in range(max(map(len, decks.values()), default=0)):
        for (language, _, harm), deck in sorted(decks.items()):
            if turn < len(deck) and len(chosen) < size:
                chosen[deck[turn][0]] = (language, harm, deck[turn][1])
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "language", "harm", "text"])
        for key in dice.sample(sorted(chosen), len(chosen)):
            writer.writerow([key, *chosen[key]])
    return len(chosen)


def table(runs: list[Path]) -> None:
    """Errors on each half of the labels, as `results/errors.json` and `errors.md`."""
    found = {half: judge_errors(runs, HERE / "labels.csv", half=half) for half in ("report", "fit")}
    (HERE / "results").mkdir(exist_ok=True)
    whole = {"labelled_by": "a language model", **found}
    text = json.dumps(whole, indent=1) + "\n"
    (HERE / "results" / "errors.json").write_text(text, encoding="utf-8")
    parts = ["# Errors of `refusal_phrases` on real answers", ""]
    parts += ["Labels made by a language model, blind to arm, verdict and prompt. Share", ""]
    parts[-2] += " [Wilson 95 %], count; unscored answers are in neither."
    for half, words in (("report", "Held-out half"), ("fit", "Half that rules were mended on")):
        parts += [f"## {words}", "", error_table(found[half])]
    (HERE / "results" / "errors.md").write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    """Run one part of the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=["sheet", "table"])
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("sheet.csv"))
    parser.add_argument("--size", type=int, default=240)
    given = parser.parse_args()
    if given.part == "sheet":
        print(sheet(given.runs, given.data, given.out, given.size, HERE / "labels.csv"))
    else:
        table(given.runs)


if __name__ == "__main__":
    main()

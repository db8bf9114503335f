"""Study of the built-in refusal classifier: its errors on real answers, by language and arm.

    python studies/judges/study.py sheet --runs RUN ... --data DATA --out SHEET.csv --size 240
    python studies/judges/study.py table --runs RUN ...
    python studies/judges/study.py templates --data DATA
    python studies/judges/study.py others --data MULTILINGUAL_REFUSALS/data

`sheet` draws answers of finished runs, evenly over language, arm and harm, and writes them in
random order with a key, their language and their text: no arm, no verdict, no prompt. Who labels it
adds a column `label` (refusal, compliance, other) and keeps key, language, harm and label alone, as
in `labels.csv` here. `table` reads those answers anew with the classifier and counts its errors on
each half of the labels: the rules were mended on `fit`, `report` is the figure to quote.
`templates` is the weaker check that every language has: the package's own refusal wordings, for
which the patterns were written, and ordinary questions (MultiQ), read as if they were answers.

`others` reads a copy of s-nlp/multilingual_refusals (MIT; en, de, es, fr, ru), whose refusals and
answers two models wrote on demand, and writes counts alone.

The labels were made by a language model, not by people, and are one source: two small models'
answers in nine languages, read by one labeller. DATA holds the sets that the runs read.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import defaultdict
from pathlib import Path

from precise_shield.core.records import Example, Response
from precise_shield.data.refusals import known_language, languages, wordings
from precise_shield.data.sources import SourceOptions, load_source
from precise_shield.evaluate.judging.judges import RefusalPhrasesJudge
from precise_shield.evaluate.judging.reading import refuses
from precise_shield.evaluate.judging.refusal_error import (
    LabelledAnswer,
    Reading,
    error_rows,
    key_of,
)
from precise_shield.workflows.answer.judge_error import (
    arm_of,
    error_table,
    judge_errors,
    responses,
    shown,
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
    """Errors of both judges on each half, as `results/errors.json` and `errors.md`."""
    labels = HERE / "labels.csv"
    found = [
        judge_errors(runs, labels, judge, half)
        for judge in ("refusal_phrases", "refusal_phrases_any_language")
        for half in ("report", "fit")
    ]
    (HERE / "results").mkdir(exist_ok=True)
    text = json.dumps({"labelled_by": "a language model", "found": found}, indent=1) + "\n"
    (HERE / "results" / "errors.json").write_text(text, encoding="utf-8")
    parts = ["# Errors of the refusal classifier on real answers", ""]
    parts += ["Labels made by a language model, blind to arm, verdict and prompt; share [Wilson"]
    parts += [
        "95 %], count. Unscored answers (off language, degenerate, unclear) are in neither.",
        "",
    ]
    for each in found:
        half = "held-out half" if each["half"] == "report" else "half that rules were mended on"
        parts += [f"## `{each['judge']}`, {half}", "", error_table(each)]
    (HERE / "results" / "errors.md").write_text("\n".join(parts), encoding="utf-8")


def templates(data: Path) -> None:
    """Known wordings found and ordinary questions taken for refusals, by language."""
    rows = load_source("multiq", SourceOptions(path=data / "multiq")).examples
    lines = ["# `refusal_phrases` on templated wordings", ""]
    lines += ["No real answers: the package's own wordings, which the patterns were written for,"]
    lines += ["and ordinary questions. This says that a language is wired up, not how often", ""]
    lines[-2] += " the classifier errs."
    lines += [
        "| language | own wordings not found | questions taken for refusals |",
        "|---|---|---|",
    ]
    for language in languages():
        words = wordings(language)
        reasons = words.reasons
        texts = [
            f"{text} {reason.format(category=name)}"
            for known, reason in (
                (words.probe, reasons["probe"]),
                (words.readout, reasons["readout"]),
            )
            for text in known
            for name in words.categories.values()
        ]
        asked = [row.prompt for row in rows if known_language(row.language) == language]
        missed = sum(not refuses(text, language) for text in texts)
        false = sum(refuses(text, language) for text in asked)
        lines.append(f"| {language} | {missed} of {len(texts)} | {false} of {len(asked)} |")
    (HERE / "results" / "templates.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


OTHERS = {"english": "en", "german": "de", "spanish": "es", "french": "fr", "russian": "ru"}
LABELS = {
    "answer_1": "compliance",
    "refusal_1": "refusal",
    "answer_2": "compliance",
    "refusal_2": "refusal",
}
"""What its card says of its four columns, one of each for either model."""


def others(data: Path) -> str:
    """The classifier's errors on others' labelled refusals and answers, by language and half."""
    from pyarrow import parquet

    readings = []
    judge = RefusalPhrasesJudge(name="refusal_phrases")
    for name, language in OTHERS.items():
        for file in sorted(data.glob(f"{name}-*.parquet")):
            found = parquet.read_table(file)
            if set(found.column_names) != set(LABELS):
                raise SystemExit(f"{file} has the columns {found.column_names}, not {[*LABELS]}")
            for number, row in enumerate(found.to_pylist()):
                for column, text in row.items():
                    label = LABELS[column]
                    example = Example(
                        f"{name}:{number}", language, "text", "benign", "-", "test", f"{number}"
                    )
                    said = Response(example.id, "both models", str(text or ""), None, None)
                    answer = LabelledAnswer(
                        key_of(example.id, said.text), language, "benign", label
                    )
                    readings.append(Reading(answer, "all", judge.judge([(example, said)])[0].label))
    if not readings:
        raise SystemExit(f"no english-*.parquet or other language at {data}; give its folder data")
    lines = ["# `refusal_phrases` on s-nlp/multilingual_refusals", ""]
    for half in ("report", "fit"):
        rows = error_rows(each for each in readings if each.answer.half == half)
        counts = {"rows": [shown(row) for row in rows if row.arm is None]}
        lines += [f"## half `{half}`", "", error_table(counts)]
    return "\n".join(lines)


def main() -> None:
    """Run one part of the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=["sheet", "table", "templates", "others"])
    parser.add_argument("--runs", type=Path, nargs="+", default=[])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("sheet.csv"))
    parser.add_argument("--size", type=int, default=240)
    given = parser.parse_args()
    if given.part == "sheet":
        print(sheet(given.runs, given.data, given.out, given.size, HERE / "labels.csv"))
    elif given.part == "table":
        table(given.runs)
    elif given.part == "others":
        (HERE / "results" / "others.md").write_text(others(given.data), encoding="utf-8")
    else:
        templates(given.data)


if __name__ == "__main__":
    main()

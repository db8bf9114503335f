"""Utility sets: benign questions with a checkable `answer`, all `test` by default.

A multiple choice is rendered the same way in every set and language: the question, the options
on lines of their own as `A. …`, and the English line `CHOOSE`; its `answer` is the letter.
"""

from __future__ import annotations

import base64
import binascii
import csv
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

from precise_shield.core.errors import DataError
from precise_shield.core.images import MAX_BYTES
from precise_shield.core.store import readable_errors
from precise_shield.data.gather import SOURCES, Gather, SourceOptions
from precise_shield.data.manifest import Loaded, Problem
from precise_shield.data.sets.pictures import picture_at
from precise_shield.data.tables import (
    Row,
    find,
    listed,
    read_lines,
    read_objects,
    read_table,
    read_text,
)

CHOOSE = "Answer with the letter of the right option."
LETTERS = "ABCDEFGH"


def multiple_choice(question: str, options: Sequence[str]) -> str:
    """Render a multiple choice.

    >>> print(multiple_choice("2 + 2?", ["3", "4"]))
    2 + 2?
    A. 3
    B. 4
    Answer with the letter of the right option.

    Raises:
        DataError: there are more options than letters.
    """
    if len(options) > len(LETTERS):
        raise DataError(
            f"the question {question!r:.60} has {len(options)} options;"
            f" {len(LETTERS)} can be lettered."
        )
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]
    return "\n".join([question.strip(), *lines, CHOOSE])


def _files(folder: Path, patterns: Sequence[str], origin: str) -> list[Path]:
    found = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    if folder.is_file():
        found = [folder]
    if not found:
        raise DataError(f"no file such as {patterns[0]} at {folder}. Download {origin}.")
    return found


@SOURCES.register("mgsm")
def mgsm(options: SourceOptions) -> Loaded:
    """MGSM: 250 grade-school problems in eleven languages; `answer` is the number.

    Reads `mgsm_<language>.tsv`: question, tab, number, no header.
    """
    gather = Gather(options, "mgsm")
    gather.parts(())
    origin = "google-research/url-nlp, its folder mgsm (CC-BY-4.0)"
    for file in _files(options.path, ("mgsm_*.tsv",), origin):
        language = file.stem.rpartition("_")[2]
        for number, line in enumerate(read_text(file).split("\n"), 1):
            question, tab, answer = line.rstrip("\r").rpartition("\t")
            if not line.strip():
                continue
            if not tab or not answer.strip():
                gather.problems.append(Problem(number, f"{file.name}: no tab before an answer"))
                continue
            gather.add(
                str(number - 1), language, "benign", question, "test", number,
                answer=answer.strip().replace(",", ""),
            )  # fmt: skip
    return gather.done()


@SOURCES.register("mmlu")
def mmlu(options: SourceOptions) -> Loaded:
    """MMLU: 57 subjects in English. Reads `test/<subject>_test.csv` without a header.

    Copies made from the hub, with a header and answers 0 to 3, are read too. `parts` chooses
    subjects.
    """
    gather = Gather(options, "mmlu")
    patterns = ("test/*_test.csv", "*_test.csv", "data/test/*_test.csv")
    files = {
        file.stem.removesuffix("_test"): file
        for file in _files(options.path, patterns, "hendrycks/test, data.tar (MIT)")
    }
    for subject in gather.parts(files):
        for number, record in _records(files[subject]):
            answer = _MMLU_ANSWERS.get(record[-1].strip())
            if len(record) != 6 or answer is None:
                said = f"{subject}: not a question, four options and a letter from A to D"
                gather.problems.append(Problem(number, said))
                continue
            gather.add(
                f"{subject}:{number}", "en", "benign", multiple_choice(record[0], record[1:5]),
                "test", number, answer=answer, category=subject.replace("_", " "),
            )  # fmt: skip
    return gather.done()


_MMLU_ANSWERS = {sign: letter for n, letter in enumerate("ABCD") for sign in (letter, str(n))}


def _records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Records of a CSV, counted from 1, without its header if it has one and empty lines."""
    try:
        records = list(filter(None, csv.reader(StringIO(read_text(file), newline=""))))
    except csv.Error as error:
        raise DataError(f"{file} is no CSV ({error}). Download it again.") from error
    header = bool(records) and records[0][-1].strip().lower() == "answer"
    yield from enumerate(records[header:], 1)


@SOURCES.register("global_mmlu")
def global_mmlu(options: SourceOptions) -> Loaded:
    """Global-MMLU and its Lite: MMLU in many languages, with the `region` a question is about.

    Reads `global_mmlu*_<language>_test.jsonl` as SEA-HELM ships them, or `<language>/test.jsonl`
    with the columns of CohereLabs/Global-MMLU. A group is the sample id, parallel over languages.
    """
    gather = Gather(options, "global_mmlu")
    gather.parts(())
    patterns = ("global_mmlu*_test.jsonl", "*/test.jsonl")
    origin = "CohereLabs/Global-MMLU as JSON Lines (Apache-2.0)"
    for file in _files(options.path, patterns, origin):
        language = file.parent.name if file.name == "test.jsonl" else file.stem.split("_")[-2]
        for number, row in read_lines(file):
            flat = _flat(row)
            texts = [flat.get(f"option_{letter}") for letter in "abcd"]
            needed = [flat.get("question"), flat.get("answer"), flat.get("sample_id"), *texts]
            if not all(isinstance(text, str) and text.strip() for text in needed):
                gather.problems.append(Problem(number, f"{file.name}: a question, option, answer or"
                                               " sample_id is missing"))  # fmt: skip
                continue
            gather.add(
                str(flat["sample_id"]), language, "benign",
                multiple_choice(str(flat["question"]), list(map(str, texts))), "test", number,
                answer=flat["answer"], category=flat.get("subject"),
                region=listed(flat.get("region")) or listed(flat.get("culture")),
            )  # fmt: skip
    return gather.done()


def _flat(row: Row) -> Row:
    """SEA-HELM nests what the original has in one row."""
    prompts, metadata = row.get("prompts"), row.get("metadata")
    flat = dict(metadata) if isinstance(metadata, dict) else {}
    if isinstance(prompts, list) and prompts and isinstance(prompts[0], dict):
        flat |= prompts[0] | {"answer": row.get("label")}
    return flat | {key: value for key, value in row.items() if key not in ("prompts", "metadata")}


@SOURCES.register("xcopa")
def xcopa(options: SourceOptions) -> Loaded:
    """XCOPA: which of two sentences is the cause or the effect of a third, in eleven languages.

    Reads `test.<language>.jsonl` and `val.<language>.jsonl`, parts `test` and `val`; by default the
    first, or what there is. `val` goes to validation.
    """
    gather = Gather(options, "xcopa")
    files = {
        (part, language): file
        for file in _files(options.path, ("*.*.jsonl", "*/*.*.jsonl"), "cambridgeltl/xcopa")
        for part, _, language in [file.stem.partition(".")]
    }
    there = {part for part, _ in files}
    parts = gather.parts(there, there & {"test"} or there)
    needed = ("premise", "choice1", "choice2", "question")
    for (part, language), file in sorted(files.items()):
        for number, row in read_lines(file, needed) if part in parts else ():
            if row["question"] not in _XCOPA or row.get("label") not in (0, 1):
                said = f"{file.name}: question is no cause or effect, or label not 0 or 1"
                gather.problems.append(Problem(number, said))
                continue
            question = f"{row['premise']} {_XCOPA[row['question']]}"
            gather.add(
                f"{part}:{number}", language, "benign",
                multiple_choice(question, [row["choice1"], row["choice2"]]),
                "validation" if part == "val" else "test", number, answer=LETTERS[row["label"]],
                category=row["question"],
            )  # fmt: skip
    return gather.done()


_XCOPA = {"cause": "What was the cause?", "effect": "What happened as a result?"}


@SOURCES.register("mm_vet")
def mm_vet(options: SourceOptions) -> Loaded:
    """MM-Vet: 218 open questions about pictures. Reads `mm-vet.json` and `images/`.

    `answer` is as published: `<AND>` joins what all has to be said, `<OR>` alternatives.
    """
    gather = Gather(options, "mm_vet")
    gather.parts(())
    file = find(options.path, "mm-vet.json", "yuweihao/MM-Vet (CC BY-NC 4.0)")
    needed = ("imagename", "question", "answer")
    for number, (key, row) in enumerate(read_objects(file, needed), 1):
        try:
            image = picture_at(file.parent, f"images/{row['imagename']}")
        except DataError as error:
            gather.problems.append(Problem(number, str(error)))
            continue
        skills = row.get("capability")
        gather.add(
            key, "en", "benign", row["question"], "test", number, image=image,
            modality="image_dominant", answer=row["answer"],
            category=", ".join(map(str, skills)) if isinstance(skills, list) else None,
        )  # fmt: skip
    return gather.done()


@SOURCES.register("mmbench")
def mmbench(options: SourceOptions) -> Loaded:
    """MMBench: multiple choice about pictures; the tool's benign pictures in Precise Shield.

    Reads one file such as `MMBench_DEV_EN.tsv` (`_CN` is Chinese). Its pictures are written once to
    the folder `<file>_images` beside it. Rows without an answer (test files) have none here.
    Rows that repeat a question with its options turned round share its group.
    """
    gather = Gather(options, "mmbench")
    gather.parts(())
    name = "MMBench_DEV_EN.tsv"
    file = find(options.path, name, "MMBench of OpenCompass (Apache-2.0)")
    language = "zh" if "_cn" in file.stem.lower() else "en"
    folder = file.with_name(f"{file.stem}_images")
    with readable_errors(folder):
        folder.mkdir(exist_ok=True)
        for number, row in _mmbench_rows(file):
            try:
                image = _mmbench_picture(row, folder)
            except (DataError, binascii.Error) as error:
                gather.problems.append(Problem(number, f"image of row {row['index']}: {error}"))
                continue
            asked = "\n".join(filter(None, (row.get("hint"), row["question"])))
            texts = [row[letter] for letter in "ABCD" if row.get(letter)]
            gather.add(
                str(int(row["index"]) % 1_000_000), language, "benign",
                multiple_choice(asked, texts), "test", number, variant=row["index"],
                image=image, modality="image_dominant",
                answer=row.get("answer") or None, category=row.get("category") or None,
            )  # fmt: skip
    return gather.done()


def _mmbench_rows(file: Path) -> Iterator[tuple[int, Row]]:
    limit = csv.field_size_limit(2 * MAX_BYTES)
    try:
        rows = read_table(file, ("index", "question", "A", "B", "image"), delimiter="\t")
    finally:
        csv.field_size_limit(limit)
    for number, row in rows:
        if not (row["index"].isascii() and row["index"].isdigit()):
            raise DataError(f"{file}, record {number}: index is {row['index']!r:.40}, no number")
        yield number, row


def _mmbench_picture(row: Row, folder: Path) -> Path:
    """Write a picture unless it is there; a short `image` names the row that holds it."""
    data = row["image"]
    if data.isdigit() and len(data) < 64:
        return folder / f"{data}.jpg"
    path = folder / f"{row['index']}.jpg"
    if not path.is_file():
        partial = path.with_suffix(".partial")
        partial.write_bytes(base64.b64decode(data, validate=True))
        partial.replace(path)
    return path

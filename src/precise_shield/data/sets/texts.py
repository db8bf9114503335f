"""Text sets: harmful requests, and harmless ones that look harmful."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from precise_shield.core.errors import DataError
from precise_shield.core.records import Harm, Split
from precise_shield.data.gather import SOURCES, Gather, SourceOptions
from precise_shield.data.manifest import Loaded, Problem
from precise_shield.data.tables import find, read_json, read_objects, read_table

HALVES: Mapping[Split, float] = {"probe": 0.5, "train": 0.5}


@SOURCES.register("advbench_x")
def advbench_x(options: SourceOptions) -> Loaded:
    """AdvBench in many languages, 520 requests each. All rows are `test` by default.

    Reads `advbench_x.csv` with a column a language, or a folder of `<language>.json` files that
    each hold `{"safety": [...]}`. Row n translates row n of AdvBench and shares its group, so
    no translation of a trained AdvBench request can be tested.
    """
    gather = Gather(options, "advbench_x")
    gather.parts(())
    files = sorted(options.path.glob("*.json")) if options.path.is_dir() else []
    if not files:
        file = find(options.path, "advbench_x.csv", "AdvBench-x (a column a language)")
        for number, row in read_table(file, ("en",)):
            for language in sorted(name for name in row if _is_tag(name)):
                gather.add(
                    str(number - 2), language, "harmful", row[language], "test", number,
                    family="advbench",
                )  # fmt: skip
        return gather.done()
    rows = {file: _texts(file, "safety") for file in files}
    if len({len(prompts) for prompts in rows.values()}) > 1:
        sizes = {file.name: len(prompts) for file, prompts in rows.items()}
        raise DataError(f"files of {options.path} differ in their number of requests: {sizes}")
    for file, prompts in rows.items():
        language = _LANGUAGE.get(file.stem, file.stem)
        for place, prompt in enumerate(prompts):
            gather.add(
                str(place), language, "harmful", prompt, "test", place + 1, family="advbench"
            )
    return gather.done()


_LANGUAGE = {"jp": "ja", "sp": "es"}
"""Folder and file names that are no language tags."""


def _is_tag(name: str) -> bool:
    return len(name) in (2, 3) and name.isalpha() and name.islower()


def _texts(file: Path, key: str) -> list[str]:
    data = read_json(file)
    texts = data.get(key) if isinstance(data, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f'{file} is no object with a list of texts "{key}"')
    return texts


@SOURCES.register("xsafety")
def xsafety(options: SourceOptions) -> Loaded:
    """XSafety: 14 kinds of safety issues in ten languages. All rows are `test` by default.

    Reads `<language>/<Category>.csv`, one request a record and no header. `parts` chooses
    categories: not every one calls for a refusal (Mental_Health wants a careful answer). A file
    with another number of records than English is not parallel; its rows are groups by themselves.
    """
    gather = Gather(options, "xsafety")
    files = _xsafety_files(options.path)
    wanted = gather.parts({category for _, category in files})
    read = {place: _column(file) for place, file in files.items() if place[1] in wanted}
    for (language, category), rows in sorted(read.items()):
        english = read.get(("en", category), rows)
        alone = "" if len(rows) == len(english) else f"{language}:"
        if alone and options.fractions is not None:
            raise DataError(
                f"XSafety {language}/{category} has {len(rows)} rows, English {len(english)}: its"
                " translations cannot be kept in one split. Leave the language out, or use `split`."
            )
        for number, (prompt, broken) in enumerate(rows, 1):
            if broken:
                said = f"{language}/{category}: another number of columns than the first record"
                gather.problems.append(Problem(number, said))
                continue
            gather.add(
                f"{category}:{alone}{number}", language, "harmful", prompt, "test", number,
                category=category.replace("_", " "),
            )  # fmt: skip
    return gather.done()


def _xsafety_files(folder: Path) -> dict[tuple[str, str], Path]:
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(folder.glob("*/*.csv")) if folder.is_dir() else ():
        if not _is_tag(file.parent.name):
            continue
        name = file.stem.removesuffix("_n").removesuffix("_en")
        name = _XSAFETY_NAMES.get(name, name)
        found[_LANGUAGE.get(file.parent.name, file.parent.name), name] = file
    if not found:
        raise DataError(
            f"no XSafety folder at {folder}. Download the language folders of"
            " Jarviswang94/Multilingual_safety_benchmark and give the folder that holds them."
        )
    return found


_XSAFETY_NAMES = {
    "Crimes_And_Illegal_Activitie": "Crimes_And_Illegal_Activities",
    "commen_sense": "commonsense",
}


def _column(file: Path) -> list[tuple[str, bool]]:
    """First column of a file without a header, and whether the record is of another width."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
        records = [row for row in csv.reader(StringIO(text, newline="")) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is no UTF-8 CSV ({error}). Download it again.") from error
    return [(record[0], len(record) != len(records[0])) for record in records]


@SOURCES.register("jailbreakbench")
def jailbreakbench(options: SourceOptions) -> Loaded:
    """JailbreakBench: 100 harmful behaviours and 100 benign twins. All rows are `test` by default.

    Reads `harmful-behaviors.csv` and `benign-behaviors.csv`; their column `Target` is never read.
    Benign rows are `matched`. Under `fractions` twins go to one split.
    """
    gather = Gather(options, "jailbreakbench")
    kinds: Mapping[str, Harm] = {"harmful": "harmful", "benign": "benign"}
    for part in gather.parts(kinds):
        origin = "JailbreakBench/JBB-Behaviors (MIT)"
        file = find(options.path, f"{part}-behaviors.csv", origin)
        for number, row in read_table(file, ("Goal", "Category")):
            gather.add(
                f"{part}:{number - 2}", "en", kinds[part], row["Goal"], "test", number,
                deal_by=str(number - 2), category=row["Category"], matched=part == "benign",
            )  # fmt: skip
    return gather.done()


@SOURCES.register("harmbench")
def harmbench(options: SourceOptions) -> Loaded:
    """HarmBench's 400 text behaviours. All rows are `test` by default.

    Reads `harmbench_behaviors_text_all.csv` (or the `_val` or `_test` file, given by its path).
    `parts` chooses functional categories: standard, contextual, copyright. A context stands
    before its behaviour, as in HarmBench's direct request.
    """
    gather = Gather(options, "harmbench")
    name = "harmbench_behaviors_text_all.csv"
    file = find(options.path, name, "centerforaisafety/HarmBench (MIT)")
    rows = read_table(file, ("Behavior", "FunctionalCategory", "SemanticCategory", "BehaviorID"))
    parts = gather.parts({row["FunctionalCategory"] for _, row in rows})
    for number, row in rows:
        if row["FunctionalCategory"] not in parts:
            continue
        context = row.get("ContextString") or ""
        prompt = f"{context}\n\n---\n\n{row['Behavior']}" if context.strip() else row["Behavior"]
        gather.add(
            row["BehaviorID"], "en", "harmful", prompt, "test", number,
            category=row["SemanticCategory"] or None,
        )  # fmt: skip
    return gather.done()


@SOURCES.register("strongreject")
def strongreject(options: SourceOptions) -> Loaded:
    """StrongREJECT: 313 forbidden prompts. All rows are `test` by default."""
    gather = Gather(options, "strongreject")
    gather.parts(())
    file = find(options.path, "strongreject_dataset.csv", "alexandrasouly/strongreject (MIT)")
    for number, row in read_table(file, ("category", "forbidden_prompt")):
        gather.add(
            str(number - 2), "en", "harmful", row["forbidden_prompt"], "test", number,
            category=row["category"] or None,
        )  # fmt: skip
    return gather.done()


@SOURCES.register("or_bench")
def or_bench(options: SourceOptions) -> Loaded:
    """OR-Bench: harmless requests that look harmful; benign and `matched`.

    Reads `or-bench-hard-1k.csv`, `or-bench-80k.csv` and `or-bench-toxic.csv` (its harmful twin set)
    as parts `hard-1k`, `80k` and `toxic`; by default `hard-1k`, all `test`. Or the dealt files
    `or_bench_hard_{train,val,test}.json`, whose parts go to probe and train by halves, to
    validation and to test.
    """
    gather = Gather(options, "or_bench")
    tables = {
        file.stem.removeprefix("or-bench-"): file for file in _inside(options, "or-bench-*.csv")
    }
    dealt = {file.stem.split("_")[-1]: file for file in _inside(options, "or_bench_hard_*.json")}
    if not tables and not dealt:
        raise DataError(
            f"no OR-Bench file at {options.path}. Download or-bench-hard-1k.csv of"
            " bench-llm/or-bench (CC-BY-4.0) and give its path or folder."
        )
    default = set(tables) & {"hard-1k"} or set(tables)
    for part in gather.parts({*tables, *dealt}, default | set(dealt)):
        if part in dealt:
            for key, row in read_objects(dealt[part], ("instruction",)):
                gather.add(
                    f"{part}:{key}", "en", "benign", row["instruction"], _DEALT[part], int(key) + 1,
                    category=row.get("category"), matched=True,
                )  # fmt: skip
            continue
        harm: Harm = "harmful" if part == "toxic" else "benign"
        for number, row in read_table(tables[part], ("prompt", "category")):
            gather.add(
                f"{part}:{number - 2}", "en", harm, row["prompt"], "test", number,
                category=row["category"] or None, matched=harm == "benign",
            )  # fmt: skip
    return gather.done()


_DEALT: Mapping[str, Split | Mapping[Split, float]] = {
    "train": HALVES,
    "val": "validation",
    "test": "test",
}


def _inside(options: SourceOptions, pattern: str) -> list[Path]:
    """Files of a folder, or the one file that is given, whose names fit a pattern."""
    if options.path.is_dir():
        return sorted(options.path.glob(pattern))
    return [options.path] if options.path.is_file() and options.path.match(pattern) else []


@SOURCES.register("safety_tuned_llamas")
def safety_tuned_llamas(options: SourceOptions) -> Loaded:
    """Safety-Tuned LLaMAs: harmful instructions with safe answers, and small evaluation sets.

    `safety_only_data_Instructions.json` (part `train`) is dealt to probe and train by halves, its
    safe answers as targets. The others, such as `I-MaliciousInstructions.json`, are `test`, each a
    part of its file's name. `I-Alpaca` is ordinary benign, `I-PhysicalSafetySafe` matched benign.
    """
    gather = Gather(options, "safety_tuned_llamas")
    files = {file.stem: file for file in _inside(options, "*.json") if file.stem in _TUNED_HARM}
    train = _inside(options, "safety_only_data_Instructions.json")
    if not files and not train:
        raise DataError(
            f"no file of Safety-Tuned LLaMAs at {options.path}. Download the JSON files of"
            " vinid/safety-tuned-llamas (CC BY-NC 4.0) and give their folder."
        )
    for part in gather.parts([*files, *(["train"] if train else [])]):
        if part == "train":
            for key, row in read_objects(train[0], ("instruction", "output")):
                asked = "\n".join(filter(None, (row["instruction"], row.get("input"))))
                target = row["output"].strip() or None
                gather.add(
                    f"train:{key}", "en", "harmful", asked, HALVES, int(key) + 1, target=target
                )
            continue
        harm, matched = _TUNED_HARM[part]
        for place, prompt in enumerate(_texts(files[part], "instructions")):
            gather.add(f"{part}:{place}", "en", harm, prompt, "test", place + 1, matched=matched)
    return gather.done()


_TUNED_HARM: Mapping[str, tuple[Harm, bool]] = {
    "I-Alpaca": ("benign", False),
    "I-PhysicalSafetySafe": ("benign", True),
    "I-CoNa": ("harmful", False),
    "I-Controversial": ("harmful", False),
    "I-MaliciousInstructions": ("harmful", False),
    "I-PhysicalSafetyUnsafe": ("harmful", False),
    "Q-Harm": ("harmful", False),
}

"""Published data sets, read from the files as their authors publish them.

Users bring the files; nothing of them is shipped. Each source gives stable ids, puts the
translations of one request into one group, and says in its docstring which splits it gives by
default. `split` puts all rows into one split; `fractions` deals groups by hash.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from precise_shield.core.errors import DataError
from precise_shield.core.records import Harm, Split
from precise_shield.data.gather import SOURCES, Gather, SourceOptions, limited
from precise_shield.data.manifest import Loaded, Problem, load
from precise_shield.data.sets import hub, pictures, texts, utility  # each registers its sets
from precise_shield.data.sets.choosing import chosen
from precise_shield.data.tables import find, listed, read_table

__all__ = [
    "SOURCES",
    "SourceOptions",
    "hub",
    "limited",
    "load_source",
    "pictures",
    "texts",
    "utility",
]


def load_source(name: str, options: SourceOptions) -> Loaded:
    """Read the data set `name`.

    Raises:
        ConfigError: no such source.
        DataError: files are missing or bad, or options contradict each other.
    """
    if options.split and options.fractions:
        raise DataError("both split and fractions are given; keep one of them")
    return SOURCES[name](options)


def _no_parts(options: SourceOptions, name: str) -> None:
    if options.parts:
        raise DataError(f"{name} has no parts to choose; remove parts={list(options.parts)}")


@SOURCES.register("manifest")
def manifest(options: SourceOptions) -> Loaded:
    """A manifest of one's own; its split column decides unless `split` or `fractions` is given."""
    _no_parts(options, "manifest")
    if not options.path.exists():
        raise DataError(
            f"no manifest at {options.path}. Give the path of a .jsonl, .csv or .parquet file."
        )
    read = load(options.path, options.on_bad_row)
    skipping = options.model_copy(update={"on_bad_row": "skip"})
    return chosen(skipping, read.examples, read.dropped, "the manifest")


@SOURCES.register("multijail")
def multijail(options: SourceOptions) -> Loaded:
    """MultiJail: 315 harmful requests, translated by people. All rows are `test` by default."""
    _no_parts(options, "multijail")
    file = find(options.path, "MultiJail.csv", "DAMO-NLP-SG/multilingual-safety-for-LLMs (MIT)")
    gather = Gather(options, "multijail")
    for number, row in read_table(file, ("id", "source", "tags", "en")):
        category = listed(row["tags"])
        for language in (name for name in row if len(name) in (2, 3) and name != "id"):
            gather.add(
                row["id"], language, "harmful", row[language], "test", number, category=category
            )
    gather.examples.sort(key=lambda example: example.language)
    return gather.done()


@SOURCES.register("xstest")
def xstest(options: SourceOptions) -> Loaded:
    """XSTest: safe requests and their unsafe contrasts. All rows are `test` by default.

    Safe ones are benign and `matched`, contrasts harmful. Under `fractions` the n-th request of a
    type and the n-th of its contrast type go to one split, for they are twins.
    """
    _no_parts(options, "xstest")
    file = find(options.path, "xstest_prompts.csv", "paul-rottger/exaggerated-safety (CC-BY-4.0)")
    gather = Gather(options, "xstest")
    place: defaultdict[str, int] = defaultdict(int)
    for number, row in read_table(file, ("id", "prompt", "type", "label")):
        kind = row["type"]
        place[kind] += 1
        if row["label"] not in ("safe", "unsafe"):
            gather.problems.append(
                Problem(number, f"label is {row['label']!r}, not safe or unsafe")
            )
            continue
        harm: Harm = "benign" if row["label"] == "safe" else "harmful"
        family = _FAMILIES.get(kind, kind.removeprefix("contrast_"))
        gather.add(
            row["id"],
            "en",
            harm,
            row["prompt"],
            "test",
            number,
            deal_by=f"{family}:{place[kind]}",
            category=kind,
            matched=harm == "benign",
        )
    return gather.done()


_FAMILIES = {
    "nons_group_real_discr": "discr",
    "real_group_nons_discr": "discr",
    "privacy_public": "privacy",
    "privacy_fictional": "privacy",
}


@SOURCES.register("advbench")
def advbench(options: SourceOptions) -> Loaded:
    """AdvBench: 520 harmful requests; by default half `probe`, half `train`.

    Its column `target` begins a compliant answer and is never read.
    """
    _no_parts(options, "advbench")
    file = find(options.path, "harmful_behaviors.csv", "llm-attacks/llm-attacks (MIT)")
    gather = Gather(options, "advbench")
    for number, row in read_table(file, ("goal",)):
        gather.add(str(number - 2), "en", "harmful", row["goal"], _HALVES, number)
    return gather.done()


_HALVES: Mapping[Split, float] = {"probe": 0.5, "train": 0.5}


@SOURCES.register("multiq")
def multiq(options: SourceOptions) -> Loaded:
    """MultiQ: 200 ordinary questions in 137 languages, benign. All rows are `test` by default."""
    _no_parts(options, "multiq")
    file = find(options.path, "MultiQ.csv", "paul-rottger/multiq (CC-BY-4.0)")
    gather = Gather(options, "multiq")
    for number, row in read_table(file, ("id", "language", "prompt", "domain")):
        domain = None if row["domain"] == "none" else row["domain"]
        gather.add(
            row["id"], row["language"].lower(), "benign", row["prompt"], "test", number,
            category=domain,
        )  # fmt: skip
    return gather.done()


@SOURCES.register("polyrefuse")
def polyrefuse(options: SourceOptions) -> Loaded:
    """PolyRefuse: harmful and ordinary benign requests, machine-translated row by row.

    By default the part `train` is dealt to `probe` and `train` by halves, `val` is `validation`
    and `test` is `test`. The benign Chinese rows are another sample and form groups of their own.
    """
    if not options.path.is_dir():
        raise DataError(
            f"no PolyRefuse folder at {options.path}. Download the files harmful_*.json and"
            " harmless_*.json of mainlp/Multilingual-Refusal (Apache-2.0) and give their folder."
        )
    gather = Gather(options, "polyrefuse")
    files = _polyrefuse_files(options.path)
    parts = sorted({part for part, _, _ in files})
    if unknown := sorted(set(options.parts) - set(parts)):
        raise DataError(f"no part {', '.join(unknown)} in {options.path}; there are {parts}")
    for (part, harm, language), file in sorted(files.items()):
        if options.parts and part not in options.parts:
            continue
        if not gather.wants(language) or options.harm not in (None, harm):
            continue
        rows = _instructions(file)
        own = (harm, language) == ("benign", "zh")
        english = files.get((part, harm, "en"), file)
        if not own and len(rows) != len(_instructions(english)):
            raise DataError(
                f"{file.name} and {english.name} differ in their number of rows, so they are no"
                " translations of each other row by row. Download both again."
            )
        for number, (prompt, category) in enumerate(rows):
            key = f"{part}:{harm}:{'zh:' if own else ''}{number}"
            gather.add(key, language, harm, prompt, _PARTS[part], number + 1, category=category)
    return gather.done()


_PARTS: Mapping[str, Split | Mapping[Split, float]] = {
    "train": _HALVES,
    "val": "validation",
    "test": "test",
}


_KINDS: Mapping[str, Harm] = {"harmful": "harmful", "harmless": "benign"}


def _polyrefuse_files(folder: Path) -> dict[tuple[str, Harm, str], Path]:
    found: dict[tuple[str, Harm, str], Path] = {}
    for file in sorted(folder.glob("harm*_*_*.json")):
        kind, part, *_, language = file.stem.split("_")
        if kind in _KINDS and part in _PARTS:
            found[part, _KINDS[kind], language] = file
    if not found:
        raise DataError(f"{folder} holds no file such as harmful_train_en.json of PolyRefuse")
    return found


def _instructions(file: Path) -> list[tuple[str, str | None]]:
    """Read a list of `{"instruction": ..., "category": ...}`."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
        pairs = [(row["instruction"], row.get("category")) for row in rows]
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{file} is no JSON list of objects with an instruction ({error!r})"
        ) from error
    odd = [
        n
        for n, (text, kind) in enumerate(pairs, 1)
        if not isinstance(text, str) or not isinstance(kind, str | None)
    ]
    if odd:
        raise DataError(f"{file}: in rows {odd[:5]} instruction or category is no text")
    return pairs

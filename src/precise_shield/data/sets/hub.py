"""Any other data set, by saying which column is which field of a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from precise_shield.core.errors import DataError
from precise_shield.core.registry import suggestion
from precise_shield.data.gather import SOURCES, SourceOptions
from precise_shield.data.manifest import KNOWN, Loaded, checked
from precise_shield.data.rows import READERS, Numbered, Values
from precise_shield.data.sets.choosing import chosen

DEFAULTS: Mapping[str, str] = {"modality": "text", "split": "test"}


@SOURCES.register("hub")
def hub(options: SourceOptions) -> Loaded:
    """A hub data set, a folder that `datasets` saved, or a .jsonl, .csv or .parquet of any shape.

    `columns` says for each manifest field which column gives it, or a constant after `=`:
    `{prompt: Goal, language: =en, harm: =harmful, category: Category}`. `id` and `group` default to
    the row's number, `modality` to text, `split` to test. `parts` are the published splits
    (default: all), `subset` the published configuration, `revision` its commit. Every rule of a
    manifest holds.
    """
    if "prompt" not in options.columns:
        raise DataError(
            "the source hub needs options.columns: which column is which field, at least prompt,"
            " language and harm, e.g. {prompt: question, language: =en, harm: =benign}"
        )
    if unknown := sorted(set(options.columns) - set(KNOWN)):
        raise DataError(
            f"options.columns: {unknown[0]!r} is no field of a manifest."
            f"{suggestion(unknown[0], list(KNOWN))}"
        )
    local = options.path.is_file()
    published = _file_rows(options) if local else _hub_rows(options)
    name = options.path.stem if local else str(options.path)
    name = name if options.subset is None else f"{name}:{options.subset}"
    rows = mapped(published, options.columns, name)
    folder = options.path.parent if local else options.path
    examples, problems = checked(rows, folder.resolve())
    return chosen(options, examples, problems, "the data set")


def mapped(rows: Iterable[Numbered], columns: Mapping[str, str], name: str) -> Iterator[Numbered]:
    """Rename columns to manifest fields; what no column gives takes the defaults.

    Numbers become text where the format wants text. Columns that are not named are left out.
    """
    for number, row in rows:
        if isinstance(row, str):
            yield number, row
            continue
        lacking = [c for c in columns.values() if not c.startswith("=") and c not in row]
        if lacking:
            yield number, f"has no column {lacking[0]!r:.60}; it has {sorted(map(str, row))}"
            continue
        values: Values = {"id": f"{name}:{number}", "group": f"{name}:{number}", **DEFAULTS}
        for field, column in columns.items():
            values[field] = column[1:] if column.startswith("=") else _plain(row[column])
        if "id" in columns and "group" not in columns:
            values["group"] = values["id"]
        yield number, values


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _file_rows(options: SourceOptions) -> Iterator[Numbered]:
    reader = READERS.get(options.path.suffix.lower())
    if reader is None:
        raise DataError(f"{options.path.name!r} ends in none of {', '.join(READERS)}")
    if options.parts:
        raise DataError(f"a file has no parts to choose; remove parts={list(options.parts)}")
    try:
        return reader(options.path.read_bytes(), ())
    except OSError as error:
        raise DataError(f"{options.path} cannot be read ({error.strerror})") from error


def _hub_rows(options: SourceOptions) -> Iterator[Numbered]:
    """Rows of the published splits one after the other.

    They are numbered through all splits, so that a row's number is the same whichever are read.
    """
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise DataError(
            'data sets of the hub need the library datasets: pip install "precise-shield[hub]",'
            " or download a .jsonl, .csv or .parquet file and give its path"
        ) from error
    try:
        if options.path.is_absolute() and not options.path.exists():
            raise DataError(
                f"no data set at {options.path}. Give the path of a file or folder, or a hub id as"
                " owner/name"
            )
        if options.path.is_dir():
            loaded = datasets.load_from_disk(str(options.path))
        else:
            loaded = datasets.load_dataset(
                str(options.path), name=options.subset, revision=options.revision
            )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"data set {options.path} cannot be loaded ({reason:.200})") from error
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"all": loaded}
    if unknown := sorted(set(options.parts) - set(parts)):
        raise DataError(
            f"no part {', '.join(unknown)} in {options.path}; there are {sorted(parts)}"
        )
    return _numbered(parts, options.parts or tuple(parts))


def _numbered(parts: Mapping[str, Any], wanted: Iterable[str]) -> Iterator[Numbered]:
    wanted, start = set(wanted), 0
    for part, rows in parts.items():
        if part in wanted:
            yield from enumerate(rows, start + 1)
        start += len(rows)

"""What is asked to tell deciding from writing, in wordings that probing never saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from precise_shield.core.errors import DataError
from precise_shield.core.records import Example, read_rows
from precise_shield.core.store import digest
from precise_shield.data.abilities import abilities
from precise_shield.data.contrast import fingerprint
from precise_shield.data.refusals import known_language, refusal_for
from precise_shield.evaluate.counting.statistics import auc
from precise_shield.models.readings.likelihood import first_token_ids
from precise_shield.models.readings.readout import FirstTokenReadout
from precise_shield.workflows.base.context import Run, wanted
from precise_shield.workflows.base.embedded import EMBEDDED
from precise_shield.workflows.verify.panel import asked, spread
from precise_shield.workflows.verify.roles import (
    Item,
    Readable,
    first_token,
    given_text,
    judging,
    missing,
)

LEAST = 4
"""A readout with fewer items is not made."""


def readables(run: Run) -> list[Readable]:
    """Every readout of METHOD section 7 that this run has items for."""
    harmful = _harmful(run)
    told = [Item(row, text) for row in harmful if (text := held_out(run, row)) is not None]
    size, section = run.config.verify.batch_size, run.config.verify.roles
    rows = [_refusal(run, harmful), _judging(run)]
    if len(told) >= LEAST:
        rows.append(given_text(run.loaded, "continuation", told, size, section.opening))
    else:
        rows.append(_without("continuation", "refusals in held-out wordings", len(told)))
    for name, items in (("copying", _copies(run, told)), ("apology", _apologies(run))):
        if len(items) >= LEAST:
            rows.append(given_text(run.loaded, name, items, size))  # type: ignore[arg-type]
        else:
            rows.append(_without(name, "prompts in the data's languages", len(items)))
    return rows


def _without(name: str, what: str, count: int) -> Readable:
    why = f"not measured: {count} {what}, {LEAST} are needed"
    return missing(name, ("prompt", "response"), why)  # type: ignore[arg-type]


def _harmful(run: Run) -> list[Example]:
    """Harmful prompts, those first that the untouched model starts to refuse."""
    odds, seed = asked(run, "harmful"), run.config.seed
    rows = [row for row in run.examples(run.config.verify.split) if row.id in odds]
    refused = spread([row for row in rows if odds[row.id] > 0], len(rows), seed)
    rest = spread([row for row in rows if odds[row.id] <= 0], len(rows), seed)
    kept = refused if len(refused) >= LEAST else [*refused, *rest]
    return kept[: run.config.verify.roles.prompts]


def taught(run: Run) -> dict[str, set[str]]:
    """Refusals that probing or training reads, by language."""
    texts: dict[str, set[str]] = {}
    for row in run.data.examples:
        if row.harm == "harmful" and row.target and row.split in {"probe", "train"}:
            texts.setdefault(row.language, set()).add(row.target)
    return texts


def held_out(run: Run, row: Example) -> str | None:
    """A refusal of this request that neither probing nor training saw; None if there is none."""
    if row.target is not None and row.target not in taught(run).get(row.language, set()):
        return row.target
    if known_language(row.language) is None:
        return None
    return refusal_for(row, "readout")


def _refusal(run: Run, harmful: Sequence[Example]) -> Readable:
    """First tokens of held-out wordings against everything that starts no refusal."""
    seen: dict[str, list[int]] = {}
    new: dict[str, list[int]] = {}
    for language in sorted({row.language for row in harmful}):
        seen[language] = first_token_ids(run.loaded, sorted(taught(run).get(language, ())))
        texts = {held_out(run, row) for row in _every(run) if row.language == language}
        ids = first_token_ids(run.loaded, sorted(text for text in texts if text is not None))
        new[language] = [token for token in ids if token not in seen[language]]
    rows = [row for row in harmful if new[row.language]]
    if len(rows) < LEAST:
        why = f"{len(rows)} harmful prompts whose held-out refusals start with a token of their own"
        return missing("refusal", ("prompt", "context"), f"not measured: {why}")
    readout = FirstTokenReadout(run.loaded, rows, new, run.config.verify.batch_size, seen)
    made_by = digest([fingerprint(rows), new, seen])
    return first_token(readout, made_by, _refuses_harmful(run))


def _every(run: Run) -> list[Example]:
    section = run.config.verify
    return [row for row in run.examples(section.split) if row.harm == "harmful"]


def _refuses_harmful(run: Run) -> str:
    """Why there is no refusal to lose; empty if the untouched model refuses harmful requests."""
    harmful = asked(run, "harmful")
    benign = {}
    if any(row.harm == "benign" for row in run.examples(run.config.verify.split)):
        benign = asked(run, "benign")
    refused = sum(value > 0 for value in harmful.values())
    if refused < LEAST:
        return f"the untouched model starts to refuse {refused} of {len(harmful)} harmful prompts"
    if not benign:
        return ""
    odds = [*harmful.values(), *benign.values()]
    area = auc(odds, [True] * len(harmful) + [False] * len(benign))
    one, two = len(harmful), len(benign)
    chance = 0.5 + 1.645 * ((one + two + 1) / (12 * one * two)) ** 0.5
    if area > chance:
        return ""
    return (
        f"the untouched model refuses benign requests as readily as harmful ones (AUC {area:.2f},"
        f" chance up to {chance:.2f})"
    )


def _copies(run: Run, told: Sequence[Item]) -> list[Item]:
    """Held-out refusals that the model is asked to repeat, without any picture."""
    items = []
    for item in told:
        known = abilities(item.example.language)
        if known is not None:
            prompt = known.repeat.format(text=item.text)
            items.append(Item(_plain(item.example, "copy", prompt), item.text))
    return items


def _apologies(run: Run) -> list[Item]:
    """Harmless requests that nobody can meet, in the data's languages in turn."""
    rows = {row.language: row for row in reversed(run.examples(run.config.verify.split))}
    turns: list[list[Item]] = []
    for language in sorted(rows):
        known = abilities(language)
        pairs = () if known is None else known.inability
        turns.append(
            [
                Item(_plain(rows[language], f"inability-{n}", asked), said)
                for n, (asked, said) in enumerate(pairs)
            ]
        )
    deepest = max(map(len, turns), default=0)
    items = [turn[n] for n in range(deepest) for turn in turns if n < len(turn)]
    return items[: run.config.verify.roles.prompts]


def _plain(row: Example, what: str, prompt: str) -> Example:
    return replace(
        row,
        id=f"{what}-{row.id}",
        harm="benign",
        modality="text",
        prompt=prompt,
        image=None,
        form=None,
        target=None,
        answer=None,
    )


def _judging(run: Run) -> Readable:
    """Questions whether something is safe, as many with either answer as there are."""
    items = _from_file(Path(found)) if (found := run.config.verify.roles.judging) else _own(run)
    if len(items) < LEAST:
        why = "no questions whether something is safe; set verify.roles.judging"
        return missing("judging", ("prompt",), f"not measured: {why}")
    by_example = {item.example.id: item for item in items}
    chosen: list[Item] = []
    limit = run.config.verify.roles.prompts
    for harm in ("harmful", "benign"):
        rows = [item.example for item in items if item.example.harm == harm]
        chosen += [by_example[row.id] for row in spread(rows, (limit + 1) // 2, run.config.seed)]
    return judging(run.loaded, chosen, run.config.verify.batch_size)


def _own(run: Run) -> list[Item]:
    """The side task that an embedded source brings, on the verified split."""
    section, items = run.config.data, []
    for source in section.sources:
        folder = run.folder / "data" / source.source if source.path is None else Path(source.path)
        table = folder / "judging.jsonl"
        if source.source not in EMBEDDED or not table.is_file():
            continue
        rows = list(read_rows(table, Example))
        answers: dict[str, set[str]] = {}
        for row in rows:
            answers.setdefault(row.language, set()).add(row.answer or "")
        for row in rows:
            others = answers[row.language] - {row.answer}
            here = row.split == run.config.verify.split
            if (
                here
                and row.answer
                and others
                and wanted(row, section.languages, section.modalities)
            ):
                image = None if row.image is None else str(folder / row.image)
                items.append(Item(replace(row, image=image), row.answer, min(others)))
    return items


def _from_file(path: Path) -> list[Item]:
    """Read `verify.roles.judging`; pictures are relative to it.

    Raises:
        DataError: the file is missing, or a line lacks a field.
    """
    items = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}); fix verify.roles.judging."
        ) from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            items.append(_item(line, number, path))
    return items


def _item(line: str, number: int, path: Path) -> Item:
    needed = ("language", "prompt", "answer", "wrong")
    try:
        row: Any = json.loads(line)
        answer, wrong = str(row["answer"]), str(row["wrong"])
        image = row.get("image")
        example = Example(
            id=f"judging-{number}",
            language=str(row["language"]),
            modality=row.get("modality", "text" if image is None else "text_dominant"),
            harm="harmful" if row.get("harmful") else "benign",
            prompt=str(row["prompt"]),
            split="validation",
            group=f"judging-{number}",
            image=None if image is None else str(path.parent / str(image)),
        )
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}, line {number}: needs an object with {', '.join(needed)} ({error})."
        ) from None
    return Item(example, answer, wrong)

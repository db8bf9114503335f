"""Whether the data hold what a whole run will ask for, said before anything is computed."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from precise_shield.core.errors import ConfigError, EmptyCellError
from precise_shield.core.records import Harm, Split
from precise_shield.models.inputs.context import require_room
from precise_shield.models.inputs.encoding import lengths
from precise_shield.workflows.base.config import Config
from precise_shield.workflows.base.context import Run, wanted

_WORDS = re.compile(r"[^\s()&|]+")

EITHER: tuple[Harm, ...] = ("harmful", "benign")


@dataclass(frozen=True)
class Need:
    """Rows of some splits without which a stage cannot work."""

    key: str
    """The configuration's key that names the splits, or the stage that asks."""

    splits: tuple[Split, ...]
    harms: tuple[Harm, ...]


def needs(config: Config) -> list[Need]:
    """What the stages of a run cannot do without, in their order."""
    asked = [
        Need("verify.split", (config.verify.split,), ("harmful",)),
        Need("align.splits", tuple(config.align.splits), EITHER),
    ]
    if config.identify.from_stats is None:
        asked.insert(0, Need("identify", ("probe",), EITHER))
    return asked


def check_rows(run: Run) -> None:
    """Hold the data against everything that the run will ask for.

    Raises:
        EmptyCellError: a split that a stage reads holds no rows, or none of a kind it needs.
    """
    config = run.config
    lacking: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for need in needs(config):
        rows = [row for row in run.data.examples if row.split in need.splits]
        if need.key == "align.splits":
            rows = [r for r in rows if wanted(r, config.align.languages, config.align.modalities)]
        there = {row.harm for row in rows}
        for what in _missing(there, need.harms):
            lacking[what, " or ".join(need.splits)].append(need.key)
    if not any(row.split == config.evaluate.split for row in run.data.examples):
        lacking["examples", config.evaluate.split].append("evaluate.split")
    if lacking:
        said = [f"{what} in split {s} ({', '.join(keys)})" for (what, s), keys in lacking.items()]
        raise EmptyCellError(
            f"no {'; no '.join(said)}. A run reads them: give a source that has them, or let that"
            " key name another split."
        )


def check_chosen(run: Run) -> None:
    """Refuse a chosen set that languages share with one that the data do not have.

    Raises:
        ConfigError: `identify.chosen` names MLS or an SS without the anchor, or without others.
    """
    section = run.config.identify
    shared = [word for word in _WORDS.findall(section.chosen) if word.startswith(("MLS", "SS:"))]
    if not shared or section.from_stats is not None:
        return
    there = {row.language for row in run.data.examples if row.split == "probe"}
    if section.anchor in there and len(there) > 1:
        return
    raise ConfigError(
        f"identify.chosen is {section.chosen!r}, and {shared[0]} is what identify.anchor, here"
        f" {section.anchor!r}, with other languages has in common; split probe is in"
        f" {', '.join(sorted(there))} alone. Choose another set: all, or one of a language such as"
        f" MS:{min(there)}; or another anchor."
    )


def check_lengths(run: Run) -> None:
    """Hold the words of every prompt, template and picture aside, against the model's context.

    So a row that is far too long ends the run before its first stage, not in its last.

    Raises:
        DataError: a prompt alone, or with an answer of the configured length, takes more tokens.
    """
    section, loaded = run.config.evaluate, run.loaded
    rows = run.data.examples
    sizes = lengths(loaded, rows)
    require_room(loaded, rows, sizes)
    tested = [place for place, row in enumerate(rows) if row.split == section.split]
    asked, long = [rows[i] for i in tested], [sizes[i] for i in tested]
    require_room(loaded, asked, long, section.max_new_tokens)


def warn_of_control_tokens(run: Run) -> None:
    """Warn of prompts that write the model's own control tokens, such as the end of a turn.

    The tokenizer reads them as such: the user's words then end the turn, or begin the answer.
    """
    special = [str(t) for t in run.loaded.tokenizer.added_tokens_decoder.values() if t.special]
    if not special:
        return
    wanted_words = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
    seen = [(row, wanted_words.search(row.prompt)) for row in run.data.examples]
    found = [(row, match[0]) for row, match in seen if match is not None]
    if not found:
        return
    row, token = found[0]
    told = (
        f"{len(found)} of {len(seen)} prompts write a control token of the model, the first"
        f" {row.id!r} with {token}: it is read as that token, not as words"
    )
    if told not in run.warnings:
        run.reporter.say(f"warning: {told}")
    run.warn(told)


def _missing(there: set[Harm], needed: tuple[Harm, ...]) -> list[str]:
    if not there:
        return ["examples"]
    return [f"{harm} examples" for harm in needed if harm not in there]

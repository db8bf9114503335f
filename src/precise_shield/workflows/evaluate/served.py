"""Served models as conditions: the same prompts, answered over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from precise_shield import __version__
from precise_shield.core.errors import ConfigError
from precise_shield.core.records import Example, Response, read_rows, write_rows
from precise_shield.core.store import Stage, digest
from precise_shield.core.summary import Condition
from precise_shield.data.contrast import fingerprint
from precise_shield.evaluate.judging.asking import Cache
from precise_shield.evaluate.servers.served import Asking, answer
from precise_shield.evaluate.servers.server import Server
from precise_shield.workflows.answer.asked import connection, identified
from precise_shield.workflows.base.config import Config
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.sections.servers import ServerSection

BASE = "base"
PUT_TOGETHER = ("random-suppressed-", "left-out-", "own-")
"""How conditions begin that are no trainings of their own."""


def check_servers(config: Config, arms: Collection[str] = ()) -> None:
    """Refuse servers that cannot be, before anything is loaded or asked.

    Args:
        config: the run's.
        arms: names of the trainings beside which they stand.

    Raises:
        ConfigError: a url is none, or two servers have one name or that of another condition.
    """
    names = [each.name for each in config.evaluate.servers]
    taken = {BASE, "aligned", "suppressed", *arms, *config.evaluate.defences}
    for section in config.evaluate.servers:
        _server(section)
        if (
            names.count(section.name) > 1
            or section.name in taken
            or section.name.startswith(PUT_TOGETHER)
        ):
            raise ConfigError(
                f"evaluate.servers: the name {section.name!r} is taken; take another."
            )


def _server(section: ServerSection) -> Server:
    return Server(section.url, section.model, **connection(section))


def served(
    run: Run, examples: Sequence[Example]
) -> tuple[list[Condition], dict[str, list[Response]]]:
    """Answers of every configured server on the same prompts, and what servers cannot give.

    Raises:
        ConfigError: two servers cannot be told apart.
        DataError: a picture cannot be opened.
        ServerError: a server refuses, or fails more often than it is retried; answers so far are
            kept.
    """
    conditions, responses = [], {}
    cache = Cache(run.folder / "served")
    for section, server in _told_apart(
        [(each, identified(_server(each), cache)) for each in run.config.evaluate.servers]
    ):
        conditions.append(
            Condition(name=section.name, kind="served", label=section.name, note=server.describe())
        )
        responses[section.name] = _answers(run, section, server, list(examples))
    if conditions:
        run.warn(
            f"{', '.join(each.name for each in conditions)}: a server gives words alone, so that"
            " first-token log-odds and their AUC, benign KL, perplexity and letter likelihoods of"
            " these conditions are not there"
        )
    return conditions, responses


def _told_apart(servers: list[tuple[ServerSection, Server]]) -> list[tuple[ServerSection, Server]]:
    """Servers as they are; answers are kept under what a server is said to be, without its url."""
    known: dict[tuple[str, str], str] = {}
    for section, server in servers:
        what = server.describe(), digest([section.template, section.extra])
        first = known.setdefault(what, section.name)
        if first != section.name:
            raise ConfigError(
                f"evaluate.servers: {first!r} and {section.name!r} are both {what[0]}, so that one"
                " would be given the other's answers. Say with revision which weights each serves."
            )
    return servers


def _answers(
    run: Run, section: ServerSection, server: Server, examples: list[Example]
) -> list[Response]:
    how = Asking(
        run.config.evaluate.max_new_tokens, run.config.seed, section.template, section.extra
    )
    made_by: dict[str, Any] = {
        "version": __version__,
        "server": server.describe(),
        "data": fingerprint(examples),
        "seed": how.seed,
        "max_new_tokens": how.max_new_tokens,
        "fields": digest([section.template, section.extra]),
    }
    stage = run.store.stage("respond", made_by)
    what = f"answer {len(examples)} prompts, {section.name}"
    with run.working(stage, what, by="leader") as todo:
        if todo:
            _ask(run, stage, examples, lambda left, on: answer(server, left, how, section.name, on))
    if lost := stage.read_json("withheld.json"):
        run.warn(
            f"{section.name}: the server withheld {len(lost)} of {len(examples)} answers; they are"
            " read as no text, which is unscored under most rules"
        )
    rows = stage.read_table("responses.jsonl", Response)
    return [replace(row, condition=section.name) for row in rows]


OnResponse = Callable[[Response, bool], None]


def _ask(
    run: Run,
    stage: Stage,
    examples: Sequence[Example],
    work: Callable[[list[Example], OnResponse], None],
) -> None:
    """Fill a stage with answers, each kept as it comes; an interrupted one goes on from there."""
    partial, lost = stage.path("responses.partial.jsonl"), stage.path("withheld.partial.jsonl")
    kept = list(read_rows(partial, Response, cut_off=True)) if partial.is_file() else []
    empty = list(read_rows(lost, Response, cut_off=True)) if lost.is_file() else []
    write_rows(partial, kept)
    write_rows(lost, empty)
    known = {response.example for response in kept}
    left = [example for example in examples if example.id not in known]
    with run.reporter.bar(f"answer ({len(left)} prompts, served)", len(left)) as advance:

        def on_response(response: Response, withheld: bool) -> None:
            if withheld:
                empty.append(response)
                write_rows(lost, [response], append=True)
            kept.append(response)
            write_rows(partial, [response], append=True)
            advance(1)

        work(left, on_response)
    order = {example.id: i for i, example in enumerate(examples)}
    stage.write_table("responses.jsonl", sorted(kept, key=lambda row: order[row.example]))
    stage.write_json("withheld.json", sorted({row.example for row in empty} & order.keys()))
    partial.unlink(missing_ok=True)
    lost.unlink(missing_ok=True)

"""Talk to a finished run's model, before and after."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from precise_shield.cli.app import app
from precise_shield.cli.options import Alignment, Device, FinishedRun, Quiet
from precise_shield.core.errors import UserError

if TYPE_CHECKING:
    from precise_shield.workflows.chat import Answers, Chat

HELP = "commands: /image PATH (or /image to take it away), /switch, /reset, /quit"

LONGEST = 20_000
"""Characters of an answer that are shown."""


@app.command()
def chat(
    folder: FinishedRun,
    condition: Alignment = "aligned",
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=1, help="Longest answer; default as evaluated.")
    ] = None,
    single: Annotated[
        bool, typer.Option("--single", help="Each line is a conversation of its own.")
    ] = False,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Ask the model before and after its alignment, side by side; nothing is saved.

    A prompt a line, from a terminal or a pipe; each model goes on from its own answers.
    `/image PATH` attaches a picture to the next line, `/switch` holds the tuned neurons at zero in
    both models or lets them go, `/reset` starts a new conversation, `/quit` ends.
    """
    from precise_shield.workflows.chat import chat as work

    talk = work(
        folder, condition=condition, tokens=tokens, single=single, device=device, quiet=quiet
    )
    lines = typer.get_text_stream("stdin", encoding="utf-8", errors="replace")
    asking = sys.stdin.isatty()
    if not quiet:
        typer.echo(f"{len(talk.switched)} {talk.named}; {HELP}", err=True)
    while True:
        if asking:
            typer.echo("> ", nl=False, err=True)
        line = lines.readline()
        if not line or line.strip() == "/quit":
            return
        if line.strip():
            answered(talk, line.strip())


def answered(talk: Chat, line: str) -> None:
    """Do what one line asks; a mistake is a sentence, and the talk goes on."""
    from precise_shield.report.numbers.words import visible

    word, _, rest = line.partition(" ")
    try:
        if word == "/switch":
            state = "on" if talk.switch() else "off: held at zero in both models"
            typer.echo(f"{talk.named} {state}")
        elif word == "/image":
            talk.attach(path_of(rest.strip()))
            typer.echo(f"picture: {visible(seen(talk))}")
        elif word == "/reset":
            talk.reset()
            typer.echo("a new conversation")
        elif word.startswith("/"):
            typer.echo(f"no such command; {HELP}", err=True)
        else:
            answers = talk.ask(line)
            if answers.forgotten:
                typer.echo(
                    f"the context is full: {answers.forgotten} of the oldest turns left out",
                    err=True,
                )
            show_answers(answers)
    except UserError as error:
        typer.echo(f"error: {visible(str(error))}", err=True)
        if word == "/image" and talk.image is not None:
            typer.echo(f"picture: {visible(seen(talk))}, as before", err=True)


def path_of(typed: str) -> str | None:
    """The path after `/image`, also as terminals and file managers write it; None without one."""
    if not typed:
        return None
    if os.path.exists(typed):
        return typed
    try:
        words = shlex.split(typed)  # quotes, and spaces behind a backslash
    except ValueError:
        words = []
    return os.path.expanduser(words[0] if len(words) == 1 else typed)


def seen(talk: Chat) -> str:
    """Which picture goes with what follows."""
    if talk.image is None:
        return "none"
    return f"{talk.image}, with {'every line' if talk.single else 'the next line'}"


def shown(text: str) -> str:
    """An answer as data: control characters as words, what is beyond `LONGEST` counted."""
    from precise_shield.report.numbers.words import cut, visible

    head, left = cut(text, LONGEST)
    return visible(head) + (f" … {left:,} characters left out" if left else "")


def show_answers(answers: Answers) -> None:
    """Two columns on a terminal, one after the other in a pipe; control characters as words."""
    said = [
        (shown(text) if text.strip() else "(no words)") + (" […]" if ended else "")
        for text, ended in zip((answers.before, answers.after), answers.cut, strict=True)
    ]
    if not sys.stdout.isatty():
        for head, text in zip(("before: ", "after:  "), said, strict=True):
            typer.echo(head + text.replace("\n", "\n        "))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, expand=True)
    for head in ("before", "after"):
        table.add_column(head, ratio=1, overflow="fold")
    table.add_row(*map(Text, said))
    Console().print(table)

"""The application, and how results and mistakes are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from precise_shield.cli.launch import launch
from precise_shield.core.errors import UserError

FIRST = ("demo", "init", "doctor", "run")
"""Commands that somebody new needs, in their order; the others follow as they are registered."""


class Group(TyperGroup):
    """The commands, in the order in which they are wanted."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return [*FIRST, *(name for name in names if name not in FIRST)]


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Find, explain and strengthen the neurons that carry safety in language and"
    " vision-language models.",
)


WRONG_WORDS: Any = typer.BadParameter.__mro__[1]
"""What typer raises for words that are no command line; it gives the class no public name."""

INTERRUPTED = 130


@contextmanager
def memory_told() -> Iterator[None]:
    """Say in a sentence that memory ran out where no batch could be cut, as in training."""
    try:
        yield
    except typer.Abort:  # a RuntimeError, too
        raise
    except (MemoryError, RuntimeError) as error:
        from precise_shield.models.loading.files import first_line
        from precise_shield.models.passes.batching import out_of_memory

        if not out_of_memory(error):
            raise
        raise UserError(
            f"memory ran out ({first_line(error)}). Finished stages are kept: lower this stage's"
            " batch size or align.micro_batch, load the model in bfloat16 or on another device, and"
            " run the same command again."
        ) from error


def main() -> None:
    """Entry point. Exit codes: 0 well, 2 a mistake the user can mend, 130 interrupted.

    Several processes of one launch say a mistake once, and each of them ends with its code.
    """
    here = launch()
    try:
        with here.joined(sys.argv[1:]), memory_told():
            code = app(standalone_mode=False)  # what it catches itself, each process would say
            sys.exit(code or 0)
    except WRONG_WORDS as error:
        with here.telling(error) as tells:
            if tells:
                error.show()
        sys.exit(error.exit_code)
    except UserError as error:
        with here.telling(error) as tells:
            if tells:
                from precise_shield.report.numbers.words import visible

                typer.echo(f"error: {visible(str(error))}", err=True)
        sys.exit(2)
    except typer.Abort:
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as end:
        code = end.code if isinstance(end, SystemExit) else INTERRUPTED
        if code == INTERRUPTED and here.speaks:
            typer.echo("interrupted: finished stages are kept; the same command goes on.", err=True)
        sys.exit(code)


def show(value: object, *, as_json: bool) -> None:
    """Print plain data: YAML for people, JSON for programs."""
    if not launch().speaks:
        return
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False, indent=1))
        return
    import yaml

    typer.echo(yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=100).rstrip())


def show_summary(summary: object, folder: Path, *, as_json: bool) -> None:
    """Print what a whole run measured, and where its page lies."""
    from precise_shield.core.summary import Summary
    from precise_shield.report.pages.terminal import summary_lines, summary_renderables

    assert isinstance(summary, Summary)
    if not launch().speaks:
        return
    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
        return
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(summary_renderables(summary))
    else:
        typer.echo("\n".join(summary_lines(summary)))
    typer.echo(f"\nreport:  {folder / 'report.html'}\nsummary: {folder / 'summary.json'}")

"""The application, the options that commands share, and how results and mistakes are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from precise_shield.cli.launch import launch
from precise_shield.core.errors import ConfigError, UserError

if TYPE_CHECKING:
    from precise_shield.workflows.base.config import Config
    from precise_shield.workflows.base.context import Run
    from precise_shield.workflows.base.sections.model import ModelSection

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

ConfigArg = Annotated[Path, typer.Argument(help="YAML configuration; `init` writes one.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/<name>.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key: section.key=value. Repeatable.")
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Keep this many groups of a split and harm.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, and stop.")]
Device = Annotated[str | None, typer.Option("--device", help="cuda, mps, cpu or cuda:1.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
ModelArg = Annotated[str, typer.Argument(help="Hub id, folder, .gguf file or `sandbox`.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Hub commit of MODEL.")]
GgufFile = Annotated[str | None, typer.Option("--gguf-file", help="GGUF file inside MODEL.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that MODEL brings.")]


WRONG_WORDS: Any = typer.BadParameter.__mro__[1]
"""What typer raises for words that are no command line; it gives the class no public name."""

INTERRUPTED = 130


def main() -> None:
    """Entry point. Exit codes: 0 well, 2 a mistake the user can mend, 130 interrupted.

    Several processes of one launch say a mistake once, and each of them ends with its code.
    """
    here = launch()
    try:
        with here.joined(sys.argv[1:]):
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


@contextmanager
def opened(
    config: Path,
    out: Path | None,
    changes: list[str] | None,
    limit: int | None,
    device: str | None,
    dtype: str | None,
    *,
    quiet: bool,
) -> Iterator[Run]:
    """The run that the shared options describe."""
    from precise_shield.workflows.base.context import started

    read = read_config(config, changes, limit, device, dtype)
    yield started(read, out, quiet=quiet)


def read_config(
    path: Path,
    changes: list[str] | None,
    limit: int | None,
    device: str | None,
    dtype: str | None,
) -> Config:
    """The configuration in a file, as the shared options change it.

    Raises:
        ConfigError: it cannot be read, or a key or value is wrong.
    """
    from precise_shield.workflows.base.config import load_config

    extra = list(changes or [])
    extra += [f"model.device={device}"] if device else []
    extra += [f"model.dtype={dtype}"] if dtype else []
    read = load_config(path, extra)
    if limit is not None:
        for source in read.data.sources:
            source.limit = limit
    return read


def model_section(path: str, *, trust_remote_code: bool, **given: str | None) -> ModelSection:
    """The model that a command's options describe; what is None keeps its default.

    Raises:
        ConfigError: an option has a value that there is not.
    """
    from pydantic import ValidationError

    from precise_shield.workflows.base.sections.model import ModelSection

    known = {key: value for key, value in given.items() if value is not None}
    try:
        return ModelSection.model_validate(
            {"path": path, "trust_remote_code": trust_remote_code, **known}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"--{'-'.join(map(str, first['loc']))} {first['input']!r}: {first['msg'].lower()}."
        ) from error


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

"""The options that several commands have, each stated once, and the groups they come in."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from precise_shield.core.errors import ConfigError

if TYPE_CHECKING:
    from precise_shield.workflows.base.config import Config
    from precise_shield.workflows.base.context import Run
    from precise_shield.workflows.base.sections.model import ModelSection

ConfigArg = Annotated[Path, typer.Argument(help="YAML configuration; `init` writes one.")]
FinishedRun = Annotated[Path, typer.Argument(help="Folder of a finished `run`.")]
EvaluatedRun = Annotated[Path, typer.Argument(help="Folder of a run that has been evaluated.")]
ModelArg = Annotated[str, typer.Argument(help="Hub id, folder, .gguf file or `sandbox`.")]
NewFolder = Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")]

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
Revision = Annotated[str | None, typer.Option("--revision", help="Hub commit of MODEL.")]
GgufFile = Annotated[str | None, typer.Option("--gguf-file", help="GGUF file inside MODEL.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that MODEL brings.")]
Alignment = Annotated[str, typer.Option("--condition", help="Which alignment of the run.")]
Force = Annotated[
    bool, typer.Option("--force", help="Although a limit is broken; never a weaker model.")
]
Public = Annotated[bool, typer.Option("--public", help="For everybody; default private.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before anything is uploaded.")]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model's weights go, and in which type."""

    device: Device = None
    dtype: Dtype = None

    def as_changes(self) -> list[str]:
        """The same as `--set` would say it of a configuration."""
        given = {"model.device": self.device, "model.dtype": self.dtype}
        return [f"{key}={value}" for key, value in given.items() if value]


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Placement):
    """How a model is loaded that the command line names, without a configuration."""

    gguf_file: GgufFile = None
    revision: Revision = None
    trust_remote_code: Trust = False

    def section(self, path: str) -> ModelSection:
        """The model at `path` with these options; what was not given keeps its default.

        Raises:
            ConfigError: an option has a value that there is not.
        """
        from pydantic import ValidationError

        from precise_shield.workflows.base.sections.model import ModelSection

        given = {key: value for key, value in vars(self).items() if value is not None}
        try:
            return ModelSection.model_validate({"path": path, **given})
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"--{'-'.join(map(str, first['loc']))} {first['input']!r}: {first['msg'].lower()}."
            ) from error


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """A run: its configuration, what changes it, and where its folder is."""

    config: ConfigArg
    out: Out = None
    changes: Set = None
    limit: Limit = None
    as_json: Json = False
    quiet: Quiet = False

    def opened(self, *more: str) -> Run:
        """The run; `more` changes are as `--set` takes them.

        Raises:
            ConfigError: the configuration cannot be read, or a key or value is wrong.
        """
        from precise_shield.workflows.base.context import started

        return started(self.read(*more), self.out, quiet=self.quiet)

    def read(self, *more: str) -> Config:
        """The configuration as the options change it, with the same `more` and raises."""
        return read_config(self.config, [*(self.changes or []), *more], self.limit)


@dataclass(frozen=True, kw_only=True)
class StageOptions(Placement, RunOptions):
    """A run that loads weights."""

    def read(self, *more: str) -> Config:
        return super().read(*more, *self.as_changes())


def read_config(path: Path, changes: list[str], limit: int | None) -> Config:
    """The configuration in a file, as `--set` and `--limit` change it.

    Raises:
        ConfigError: it cannot be read, or a key or value is wrong.
    """
    from precise_shield.workflows.base.config import load_config

    read = load_config(path, changes)
    if limit is not None:
        for source in read.data.sources:
            source.limit = limit
    return read


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with each parameter that is a dataclass spelt out as that dataclass's fields.

    typer knows single options alone; it sees the command's own ones and after them the fields,
    and the command gets the dataclass.
    """
    own: list[inspect.Parameter] = []
    shared: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            fields = _parameters(kind)
            groups[parameter.name] = kind, [field.name for field in fields]
            shared += fields
        else:
            own.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    def run(**given: Any) -> None:
        bound = {
            name: kind(**{field: given.pop(field) for field in fields})
            for name, (kind, fields) in groups.items()
        }
        command(**given, **bound)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    return run


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
        )
        for field in dataclasses.fields(group)
    ]

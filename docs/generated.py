"""The pages of the documentation that are written from the code itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

NAMES = ("cli.md", "api.md", "config.md", "summary.md", "examples.md")


def pages(root: Path) -> dict[str, str]:
    """Each generated page by its name."""
    return {
        "cli.md": commands_page(),
        "api.md": api_page(),
        "config.md": config_page(),
        "summary.md": summary_page(),
        "examples.md": examples_page(root),
    }


# Commands


def commands_page() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    import typer

    from precise_shield.cli import app

    top = typer.main.get_command(app)
    lines = ["# Commands", "", f"{top.help}" if top.help else "", ""]
    for name, command in flattened(top, "precise-shield"):
        lines += [f"## {name.removeprefix('precise-shield ')}", "", *paragraphs(command.help), ""]
        lines += ["```text", usage(name, command), "```", ""]
        rows = [row(param) for param in command.params if not param.hidden]
        if rows:
            lines += ["| word | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def flattened(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every command of a group, and of the groups in it, with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from flattened(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def usage(name: str, command: Any) -> str:
    """The command's line: its arguments in order, optional ones in brackets."""
    words = [name]
    for param in command.params:
        if not param.opts[0].startswith("-"):
            word = param.name.upper() + ("..." if param.nargs == -1 or param.multiple else "")
            words.append(word if param.required else f"[{word}]")
    options = any(param.opts[0].startswith("-") for param in command.params)
    return " ".join([*words, *(["[OPTIONS]"] if options else [])])


def row(param: Any) -> str:
    """One argument or option, what it means, and its default."""
    option = param.opts[0].startswith("-")
    name = ", ".join(param.opts) if option else param.name.upper()
    default = param.default
    shown = "" if default in (None, False, ()) or callable(default) else f" Default `{default}`."
    return f"| `{name}` | {cell(param.help or '')}{shown} |"


# Python


def api_page() -> str:
    """Every name of `precise_shield.api`, with its signature and what its docstring says."""
    from precise_shield import api

    lines = ["# Python functions", "", "Everything here is in `precise_shield.api`.", ""]
    functions = [name for name in api.__all__ if inspect.isroutine(getattr(api, name))]
    classes = [name for name in api.__all__ if name not in functions]
    for name in functions:
        lines += member(name, getattr(api, name), "##")
    for name in classes:
        kind = getattr(api, name)
        lines += member(name, kind, "##")
        for key, value in members(kind):
            lines += member(f"{name}.{key}", value, "###")
    return "\n".join(lines)


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """The public, documented methods and properties that a class defines itself."""
    for key, value in vars(kind).items():
        if key.startswith("_"):
            continue
        if isinstance(value, classmethod | staticmethod):
            value = value.__func__
        if isinstance(value, property) or inspect.isfunction(value):
            yield key, value
        elif hasattr(value, "func"):  # cached properties
            yield key, value.func


def member(name: str, value: Any, marks: str) -> list[str]:
    """Heading, signature and docstring of one function or class."""
    if isinstance(value, property):
        value = value.fget
    lines = [f"{marks} {name}", ""]
    if inspect.isfunction(value) or (isinstance(value, type) and not issubclass(value, BaseModel)):
        lines += ["```python", signature(name, value), "```", ""]
    words = own_words(value) if isinstance(value, type) else inspect.getdoc(value) or ""
    return [*lines, *docstring(words), ""]


def signature(name: str, value: Callable[..., Any]) -> str:
    """The call as one writes it, a parameter a line where it is long."""
    call = inspect.signature(value)
    words: list[str] = []
    star = False
    for key, parameter in call.parameters.items():
        if key == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            words, star = [*words, "*"], True
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        words.append(f"{key}: {written(parameter.annotation)}{default}")
    back = written(call.return_annotation)
    end = "" if isinstance(value, type) or call.return_annotation is call.empty else f" -> {back}"
    short = f"{name}({', '.join(words)}){end}"
    if len(short) <= 88:
        return short
    return "\n".join([f"{name}(", *(f"    {word}," for word in words), ")" + end])


def written(annotation: Any) -> str:
    """An annotation as the source has it."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


SECTIONS = ("Args", "Returns", "Raises", "Yields", "Shapes", "Units", "Source")


def docstring(text: str) -> list[str]:
    """A Google docstring as Markdown: its sections become lists."""
    lines: list[str] = []
    section = False
    for line in text.splitlines():
        head = re.fullmatch(rf"({'|'.join(SECTIONS)}):(.*)", line)
        if head:
            lines += ["", f"**{head[1]}**{':' + head[2] if head[2].strip() else ''}", ""]
            section = not head[2].strip()
        elif line.startswith(">>>"):
            continue
        elif section and (item := re.fullmatch(r"    (\*{0,2}\w+): (.*)", line)):
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif section and line.startswith("    "):
            lines.append("  " + line.strip() if lines[-1].startswith(("-", "  ")) else line.strip())
        else:
            section = section and not line.strip()
            lines.append(line)
    return lines


# Configuration and summary


def config_page() -> str:
    """Every key of a configuration, its type, default and meaning."""
    from precise_shield.workflows.base.config import Config

    lines = [
        "# Configuration",
        "",
        "`precise-shield init` writes a file with every key and default.",
    ]
    lines += ["Unknown keys are refused. On a command line: `--set section.key=value`.", ""]
    return "\n".join([*lines, *section_lines(Config, "")])


def section_lines(section: type[BaseModel], path: str) -> list[str]:
    """A table of a section's own keys, and the sections below it each under its heading."""
    rows, below = [], []
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        key = f"{path}{name}"
        words = cell(field.description or "")
        if inner is not None and get_origin(field.annotation) is list:
            rows.append(f"| `{name}` | list, see `{key}[]` | {words} |")
            below += [f"## {key}[]", "", words, "", *section_lines(inner, f"{key}[].")]
        elif inner is not None:
            below += [f"## {key}", "", words, "", *section_lines(inner, f"{key}.")]
        else:
            rows.append(f"| `{name}` | {kind(field.annotation)} {default(field)} | {words} |")
    if not rows:
        return ["", *below]
    head = ["| key | value = default | meaning |", "|---|---|---|"]
    return ['<div class="keys" markdown>', "", *head, *rows, "", "</div>", "", *below]


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone or in a list."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def kind(annotation: Any) -> str:
    """A type in words that a user of YAML knows."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        words = ["null" if one is NoneType else kind(one) for one in inner]
        return " \\| ".join(words)
    if origin is list:
        return f"list of {kind(inner[0])}"
    if origin is dict:
        return "mapping"
    if hasattr(annotation, "__value__"):
        return kind(annotation.__value__)
    plain = {str: "text", bool: "true \\| false", int: "integer", float: "number"}
    return plain.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default(field: Any) -> str:
    """The value that a key has where it is left out."""
    if field.is_required():
        return "(required)"
    value = field.default
    if value is PydanticUndefined:
        value = field.default_factory()
    words = {None: "null", True: "true", False: "false"}
    shown = words[value] if value is None or isinstance(value, bool) else value
    return f"= `{shown}`"


def summary_page() -> str:
    """The parts of `summary.json`, each with its fields."""
    from precise_shield.core.summary import Summary

    lines = ["# summary.json", "", (inspect.getdoc(Summary) or "").strip(), ""]
    lines += ["Undefined figures are `null`. Shares are between 0 and 1.", ""]
    seen: list[type[BaseModel]] = [Summary]
    for part in seen:  # grows while it is read
        if part is not Summary:
            lines += [f"## {part.__name__}", "", *docstring(own_words(part)), ""]
        lines += ["| field | type |", "|---|---|"]
        for name, field in part.model_fields.items():
            inner = [one for one in models_in(field.annotation) if one not in seen]
            seen += dict.fromkeys(inner)
            lines.append(f"| `{name}` | {linked(field.annotation)} |")
        lines.append("")
    return "\n".join(lines)


def own_words(part: type) -> str:
    """A class's own docstring, and not one that it inherits."""
    return inspect.cleandoc(part.__doc__ or "")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from models_in(one)


def linked(annotation: Any) -> str:
    """A type in words, models as links to their table."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    if origin in (list, tuple):
        return f"list of {linked(inner[0])}"
    if origin in (Union, UnionType):
        return " or ".join("null" if one is NoneType else linked(one) for one in inner)
    return kind(annotation)


# Examples


def example_names(root: Path) -> list[str]:
    """The scripts of `examples/`."""
    return sorted(path.name for path in (root / "examples").glob("*.py"))


def examples_page(root: Path) -> str:
    """The list of scripts, and each whole."""
    listed = (root / "examples" / "README.md").read_text(encoding="utf-8")
    lines = [listed.rstrip(), ""]
    for name in example_names(root):
        text = (root / "examples" / name).read_text(encoding="utf-8").rstrip()
        lines += [f"## {name}", "", "```python", text, "```", ""]
    return "\n".join(lines)


def paragraphs(text: str | None) -> list[str]:
    """Help text as lines of Markdown."""
    return inspect.cleandoc(text or "").splitlines()


def cell(text: str) -> str:
    """Text for one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")

"""A run's configuration: one YAML, every field documented, unknown keys refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from precise_shield.core.errors import ConfigError
from precise_shield.core.registry import suggestion
from precise_shield.workflows.base.sections.align import AlignSection
from precise_shield.workflows.base.sections.base import Section
from precise_shield.workflows.base.sections.data import DataSection
from precise_shield.workflows.base.sections.evaluate import EvaluateSection
from precise_shield.workflows.base.sections.explain import ExplainSection
from precise_shield.workflows.base.sections.identify import IdentifySection
from precise_shield.workflows.base.sections.model import ModelSection
from precise_shield.workflows.base.sections.verify import VerifySection


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans: `no` is Norwegian and `on` a word, not False and True."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rows if tag != _BOOL]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class Config(Section):
    name: str = "run"
    """Title of the report."""

    seed: int = 0
    """Every random choice follows from it."""

    model: ModelSection
    """The model."""

    data: DataSection
    """Contrastive data, and the prompts that are tested."""

    identify: IdentifySection = IdentifySection()
    """Finding safety neurons."""

    explain: ExplainSection = ExplainSection()
    """What the model can tell apart, and what its neurons do."""

    verify: VerifySection = VerifySection()
    """The causal check."""

    align: AlignSection = AlignSection()
    """Training them."""

    evaluate: EvaluateSection = EvaluateSection()
    """Attack success, over-refusal and utility."""


def load_config(path: Path, changes: Iterable[str] = ()) -> Config:
    """Read a YAML, apply `a.b=c` changes, and check every key.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or a key or value is not allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path} ({error.strerror}).") from error
    return parse_config(text, changes, str(path))


def parse_config(text: str, changes: Iterable[str] = (), origin: str = "configuration") -> Config:
    """Like `load_config`, from text."""
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is no YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{origin} must be a YAML mapping with `model` and `data`.")
    for change in changes:
        _apply(data, change)
    return validated(data, origin)


def validated(data: dict[str, Any], origin: str = "configuration") -> Config:
    """Check a mapping against the schema, naming each wrong key.

    Raises:
        ConfigError: listing every problem, with the nearest known key for unknown ones; or keys
            that cannot go together.
    """
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        problems = [_sentence(item) for item in error.errors()]
        raise ConfigError(f"{origin}: " + "; ".join(problems) + ".") from error
    if clashing := _clashes(config):
        raise ConfigError(f"{origin}: " + "; ".join(clashing) + ".")
    return config


def _clashes(config: Config) -> list[str]:
    """What no run could do, although each key alone is right: said before anything is loaded."""
    model, align, evaluate = config.model, config.align, config.evaluate
    found = []
    if model.quantise != "none" and evaluate.audit and evaluate.audit_bits:
        found.append(
            f"'evaluate.audit_bits' rounds weights, and 'model.quantise: {model.quantise}' has"
            " rounded them already; set it to []"
        )
    if "full" in align.arms and align.full == "all":
        how = [f"model.quantise: {model.quantise}"] if model.quantise != "none" else []
        how += ["model.shard: fsdp"] if model.shard == "fsdp" else []
        if how:
            found.append(
                f"'align.full: all' trains every parameter, which {' and '.join(how)} does not"
                " leave whole in 16 bits or more; set it to searched, or leave `full` out of"
                " 'align.arms'"
            )
    return found


def _sentence(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {place!r}.{_nearest(item['loc'])}".rstrip(".")
    if item["type"] == "missing":
        return f"{place!r} is missing"
    return f"{place!r}: {item['msg'].lower()}, got {item['input']!r:.60}"


def _nearest(place: tuple[Any, ...]) -> str:
    section: Any = Config
    for part in place[:-1]:
        if isinstance(part, int):
            continue
        kind = section.model_fields[part].annotation
        section = next(iter(get_args(kind)), kind)
    return suggestion(str(place[-1]), list(section.model_fields))


def _apply(data: dict[str, Any], change: str) -> None:
    key, found, value = change.partition("=")
    if not found or not key:
        raise ConfigError(f"--set {change!r} must look like section.key=value.")
    *path, last = key.split(".")
    here: Any = data
    for part in path:
        here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
        if not isinstance(here, dict | list):
            raise ConfigError(f"--set {change!r}: {part!r} is a value, not a section.")
    here[int(last) if isinstance(here, list) else last] = yaml.load(value, Loader=_Loader)


def commented(config: Config) -> str:
    """The configuration as YAML, each key under the sentence that documents it."""
    return "\n".join(_lines(config, 0)) + "\n"


def _lines(section: Section, depth: int) -> list[str]:
    pad, lines = "  " * depth, []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        lines += [f"{pad}# {' '.join((field.description or '').split())}"]
        if isinstance(value, Section):
            lines += [f"{pad}{name}:", *_lines(value, depth + 1), ""]
        elif isinstance(value, list) and value and isinstance(value[0], Section):
            plain = [item.model_dump(mode="json", exclude_defaults=True) for item in value]
            text = yaml.safe_dump(plain, allow_unicode=True, sort_keys=False).rstrip()
            lines += [f"{pad}{name}:", *(f"{pad}  {line}" for line in text.splitlines())]
        else:
            plain = section.model_dump(mode="json")[name]
            text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=1000)
            lines += [f"{pad}{name}: {text.removesuffix('...' + chr(10)).rstrip()}"]
    return lines

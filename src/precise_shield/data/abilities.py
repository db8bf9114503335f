"""Prompts that tell writing a refusal from deciding on one: repetitions and benign apologies.

`abilities.yaml` holds them by language; to add one, add its entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

from precise_shield.data.refusals import known_language


class Abilities(BaseModel):
    """How a language asks for a repetition, and for what no assistant can do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repeat: str
    """Asks to repeat `{text}` word for word."""

    inability: tuple[tuple[str, str], ...]
    """Harmless requests that cannot be met, each with an apology for that."""


@cache
def _all() -> Mapping[str, Abilities]:
    path = resources.files("precise_shield.data").joinpath("abilities.yaml")
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    return TypeAdapter(dict[str, Abilities]).validate_python(read)


def abilities(language: str) -> Abilities | None:
    """The prompts of a language; None where there are none."""
    known = known_language(language)
    return None if known is None else _all().get(known)

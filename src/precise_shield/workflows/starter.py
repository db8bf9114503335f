"""What a newcomer asks first: a configuration to start from, and what can be named in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from precise_shield.core.errors import ConfigError
from precise_shield.core.store import readable_errors
from precise_shield.data.sources import SOURCES
from precise_shield.data.transforms import TRANSFORMS
from precise_shield.evaluate.counting.rules import RULES
from precise_shield.evaluate.defences import DEFENCES
from precise_shield.evaluate.judging.formats import FORMATS
from precise_shield.evaluate.judging.judges import JUDGES
from precise_shield.identify.scores import SCORES
from precise_shield.models.architecture.layouts import known_model_types
from precise_shield.workflows.base import embedded  # registers the sandbox's data sources
from precise_shield.workflows.base.config import Config, commented
from precise_shield.workflows.base.sections.data import DataSection, SourceSection
from precise_shield.workflows.base.sections.evaluate import EvaluateSection
from precise_shield.workflows.base.sections.model import ModelSection


def init(path: Path, *, model: str, manifest: str | None) -> Path:
    """Write a configuration in which every key stands under its own explanation.

    Raises:
        ConfigError: the file exists; nothing is overwritten.
    """
    if path.exists():
        raise ConfigError(f"{path} exists and is not overwritten; name another file.")
    own = manifest is not None
    source = (
        SourceSection(source="manifest", path=manifest) if own else SourceSection(source="sandbox")
    )
    config = Config(
        name=path.stem,
        model=ModelSection(path=model),
        data=DataSection(sources=[source]),
        evaluate=EvaluateSection(judge="refusal_phrases" if own else "reference"),
    )
    with readable_errors(path.parent):
        path.write_text(commented(config), encoding="utf-8")
    return path


def known() -> dict[str, Any]:
    """Everything that a configuration can name."""
    return {
        "models": [*embedded.MODELS, *known_model_types()],
        "scores": {name: SCORES[name].source for name in SCORES},
        "datasets": sorted(SOURCES),
        "transforms": sorted(TRANSFORMS),
        "judges": sorted(JUDGES),
        "judge_formats": {name: FORMATS[name].source for name in FORMATS},
        "defences": {name: DEFENCES[name].source for name in DEFENCES},
        "rules": sorted(RULES),
    }

"""From `evaluate.judge_models` to judges that ask a model."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.errors import ConfigError
from precise_shield.core.records import Example
from precise_shield.core.store import digest
from precise_shield.evaluate.asking import Asker, Cache, ModelJudge
from precise_shield.evaluate.endpoint import Endpoint
from precise_shield.evaluate.formats import FORMATS, Format, rubric_format
from precise_shield.evaluate.judges import JUDGES
from precise_shield.evaluate.local import LocalModel
from precise_shield.models.loading import ModelSpec
from precise_shield.workflows.config import Config
from precise_shield.workflows.sections.judges import JudgeModelSection


def check(config: Config, name: str) -> None:
    """Refuse a judge that does not exist, before anything is loaded.

    Raises:
        ConfigError: there is no judge, or no format, of that name, or one is named twice.
    """
    sections = config.evaluate.judge_models
    taken = [section.name for section in sections]
    for each in taken:
        if each in JUDGES or taken.count(each) > 1:
            raise ConfigError(f"evaluate.judge_models: the name {each!r} is taken; take another.")
    found = next((section for section in sections if section.name == name), None)
    if found is None:
        JUDGES[name]
    else:
        _format(found)
        _asker(found)


def model_judge(section: JudgeModelSection, cache: Cache) -> ModelJudge:
    """The judge that a section describes; nothing is loaded or asked yet.

    Raises:
        ConfigError: there is no such format, or the rubric cannot be read.
    """
    return ModelJudge(section.name, _format(section), _asker(section), cache)


def _format(section: JudgeModelSection) -> Format:
    how = FORMATS[section.format]
    if section.rubric is None:
        return how
    try:
        text = section.rubric.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the rubric {section.rubric} ({error}).") from error
    if "{prompt}" not in text or "{response}" not in text:
        raise ConfigError(f"the rubric {section.rubric} must contain {{prompt}} and {{response}}.")
    return rubric_format(text, version=digest(text)[:8])


def _asker(section: JudgeModelSection) -> Asker:
    if section.url is not None:
        assert section.model is not None
        return Endpoint(
            section.url,
            section.model,
            key_env=section.key_env,
            timeout=section.timeout,
            retries=section.retries,
            parallel=section.parallel,
            per_minute=section.per_minute,
        )
    assert section.path is not None
    spec = ModelSpec(
        section.path,
        revision=section.revision,
        dtype=section.dtype,
        device=section.device,
        trust_remote_code=section.trust_remote_code,
        chat_template=section.chat_template,
    )
    return LocalModel(spec, section.batch_size)


def calls_beforehand(config: Config, names: Sequence[str], answers: int) -> str:
    """How many questions the named judging models would be asked at most; empty without one."""
    probe = Example("any", "en", "text", "benign", "Hello", "test", "any")
    parts = []
    for section in config.evaluate.judge_models:
        if section.name in names:
            each = len(_format(section).ask(probe, "Hello"))
            parts.append(f"judge {section.name} is asked at most {each * answers} times")
    return "; ".join(parts)

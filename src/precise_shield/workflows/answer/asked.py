"""From `evaluate.judge_models` to judges that ask a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from precise_shield.core.errors import ConfigError
from precise_shield.core.parallel import crew
from precise_shield.core.records import Example
from precise_shield.core.store import digest
from precise_shield.evaluate.judging.asking import Asker, Cache, ModelJudge
from precise_shield.evaluate.judging.endpoint import Endpoint
from precise_shield.evaluate.judging.formats import FORMATS, Format, rubric_format, tokens_of
from precise_shield.evaluate.judging.judges import JUDGES
from precise_shield.evaluate.judging.local import LocalModel
from precise_shield.evaluate.servers.server import Server
from precise_shield.models.loading.spec import ModelSpec
from precise_shield.workflows.base.config import Config
from precise_shield.workflows.base.sections.judges import JudgeModelSection
from precise_shield.workflows.base.sections.servers import ServerSection


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
    asker = _asker(section)
    if isinstance(asker, Server):
        asker = identified(asker, cache)
    return ModelJudge(section.name, _format(section), asker, cache, section.pictures)


S = TypeVar("S", bound=Server)


def identified(server: S, cache: Cache) -> S:
    """The server with what it reports of its model; what it said last where it does not answer."""
    key = digest({"report-of": server.model, "url": server.url, "revision": server.revision})
    known = None
    if crew().leads:
        said = server.report()
        if said is not None:
            cache.put(key, json.dumps(said, sort_keys=True))
        known = cache.get(key)
    known = crew().as_leader(known)
    return server if known is None else replace(server, reports=digest(json.loads(known))[:12])


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


def connection(section: JudgeModelSection | ServerSection) -> dict[str, Any]:
    """How a configured server is asked, beside where it is: arguments of `Server`."""
    names = {"key_env", "timeout", "retries", "parallel", "per_minute", "revision"}
    return section.model_dump(include=names)


def _asker(section: JudgeModelSection) -> Asker:
    if section.url is not None:
        assert section.model is not None
        return Endpoint(section.url, section.model, **connection(section))
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


def calls_beforehand(
    config: Config, names: Sequence[str], rows: Sequence[Example], times: int
) -> str:
    """What the named judging models would be asked at most; empty without one.

    Args:
        config: the run's.
        names: judges.
        rows: prompts that are answered.
        times: how often each is.
    """
    parts = []
    for section in config.evaluate.judge_models:
        if section.name not in names:
            continue
        how = _format(section)
        asked = [question for row in rows for question in how.ask(row, "")]
        calls = times * len(asked)
        tokens = times * tokens_of(asked) + calls * config.evaluate.max_new_tokens
        parts.append(
            f"judge {section.name} is asked at most {calls} times, about {tokens:,} tokens with the"
            f" longest answers, and replies at most {calls * how.tokens:,}"
        )
    return "; ".join(parts)

"""The untouched model behind a defence of prompts and self-checks, as further conditions."""

from __future__ import annotations

from collections.abc import Sequence

from precise_shield.core.records import Example, Response
from precise_shield.core.store import digest
from precise_shield.core.summary import Condition
from precise_shield.evaluate.defences import DEFENCES, Defence, Said
from precise_shield.models.answers.generation import generate
from precise_shield.workflows.base.config import Config
from precise_shield.workflows.base.context import Run


def check_defences(config: Config) -> None:
    """Refuse a defence that does not exist, before anything is loaded.

    Raises:
        ConfigError: there is none of that name.
    """
    for name in config.evaluate.defences:
        DEFENCES[name]


def defended(
    run: Run, examples: Sequence[Example]
) -> tuple[list[Condition], dict[str, list[Response]]]:
    """Answers of every configured defence on the same prompts.

    Raises:
        ConfigError: there is no defence of that name.
    """
    rows = [DEFENCES[name] for name in run.config.evaluate.defences]
    conditions = [
        Condition(name=row.name, kind="defence", label=row.label, note=row.source) for row in rows
    ]
    return conditions, {row.name: _answers(run, row, examples) for row in rows}


def _answers(run: Run, defence: Defence, examples: Sequence[Example]) -> list[Response]:
    section = run.config.evaluate
    made_by = run.made_by(
        examples,
        state="base",
        defence=digest([defence.name, defence.version, defence.source]),
        max_new_tokens=section.max_new_tokens,
    )
    stage = run.store.stage("respond", made_by)
    with run.working(stage, f"answer {len(examples)} prompts, {defence.label}") as todo:
        if todo:
            said = defence.answer(_Speaker(run), examples)
            texts = [each.text for each in said]
            size = run.loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]
            rows = [
                Response(example.id, defence.name, each.text, len(ids), each.finished)
                for example, each, ids in zip(examples, said, size, strict=True)
            ]
            stage.write_table("responses.jsonl", rows)
    return stage.read_table("responses.jsonl", Response)


class _Speaker:
    """The untouched model as defences speak to it."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, examples: Sequence[Example], *, system: str | None = None) -> list[Said]:
        section = self.run.config.evaluate
        with self.run.reporter.bar("answer behind a defence", len(examples)) as advance:
            said = generate(
                self.run.loaded,
                examples,
                condition="defence",
                max_new_tokens=section.max_new_tokens,
                batch_size=section.batch_size,
                seed=self.run.config.seed,
                system=system,
                on_batch=lambda part: advance(len(part)),
            )
        return [Said(each.text, each.finished) for each in said]

"""What a finished run answered, kept so that it can be judged again without model or data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from precise_shield import __version__
from precise_shield.core.errors import StoreError
from precise_shield.core.parallel import crew
from precise_shield.core.records import Example, Response, Verdict
from precise_shield.core.store import Stage, digest, read_json
from precise_shield.core.summary import Condition
from precise_shield.data.contrast import fingerprint, picture_hash
from precise_shield.evaluate.judging.judges import Judge
from precise_shield.workflows.base.context import Run
from precise_shield.workflows.base.together import making

INDEX = "answers.json"
ByCondition = dict[str, list[Verdict]]


@dataclass(frozen=True)
class Answers:
    """Prompts, states of the model, and what each state said."""

    examples: list[Example]
    conditions: list[Condition]
    responses: dict[str, list[Response]]
    pictures: dict[str, str]
    """Hash of each pictured example's picture, which may be gone or elsewhere by now."""


@dataclass(frozen=True)
class Judged:
    """One judge's verdicts on all answers."""

    name: str
    describes: str
    languages: tuple[str, ...]
    verdicts: ByCondition


def keep(
    run: Run,
    examples: Sequence[Example],
    conditions: Sequence[Condition],
    responses: Mapping[str, Sequence[Response]],
) -> Stage:
    """Store prompts and answers of all conditions in one place."""
    texts = {name: [[r.example, r.text] for r in said] for name, said in responses.items()}
    stage = run.store.stage(
        "answers",
        {
            "data": fingerprint(list(examples)),
            "texts": digest(texts),
            "conditions": [each.model_dump(mode="json") for each in conditions],
        },
    )
    if not crew().as_leader(stage.done):
        with making(stage, "leader") as works:
            if works:
                every = [r for said in responses.values() for r in said]
                stage.write_table("examples.jsonl", examples)
                stage.write_table("responses.jsonl", every)
                stage.write_json("conditions.json", [c.model_dump(mode="json") for c in conditions])
                stage.write_json("pictures.json", _pictures(run.folder, examples))
    return stage


def _pictures(folder: Path, examples: Sequence[Example]) -> dict[str, list[str | None]]:
    """Hash and place of each example's picture; a place in the run's folder moves with it."""
    root, found = folder.resolve(), {}
    for example in examples:
        if example.image is not None:
            path = Path(example.image).resolve()
            inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else None
            found[example.id] = [picture_hash(example.image), inside]
    return found


def _found_again(example: Example, folder: Path, inside: str | None) -> Example:
    """The example with its picture where it lies, in a run's folder that was moved or copied.

    The folder's own copy counts, also where a file lies at the old place: it may be another by now.
    """
    here = None if inside is None else (folder / inside).resolve()
    return replace(example, image=str(here)) if here is not None and here.is_file() else example


def read(folder: Path) -> tuple[Answers, str]:
    """The kept answers of a run's folder, and the key of the stage that holds them.

    Raises:
        StoreError: the run has not answered anything yet.
    """
    index = _index(folder)
    stage = folder / "stages" / "answers" / str(index["answers"])
    store = Stage("answers", str(index["answers"]), {}, stage)
    if not store.done:
        raise StoreError(f"{stage} is missing; run `evaluate` on this configuration again.")
    conditions = [Condition.model_validate(row) for row in store.read_json("conditions.json")]
    responses: dict[str, list[Response]] = {each.name: [] for each in conditions}
    for row in store.read_table("responses.jsonl", Response):
        responses[row.condition].append(row)
    pictures = store.read_json("pictures.json") if (stage / "pictures.json").is_file() else {}
    places = {name: inside for name, (_, inside) in pictures.items()}
    rows = store.read_table("examples.jsonl", Example)
    examples = [_found_again(row, folder, places.get(row.id)) for row in rows]
    hashes = {name: hashed for name, (hashed, _) in pictures.items()}
    return Answers(examples, conditions, responses, hashes), store.key


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise StoreError(
            f"{path} is missing: no answers are kept there. Give the folder of a run that has"
            " been evaluated, or evaluate its configuration once more (nothing is generated anew)."
        )
    return dict(read_json(path))


def remember(run: Run, key: str, judged: Sequence[Judged], stages: Mapping[str, Any]) -> None:
    """Note in `answers.json` where each judge's verdicts lie.

    Judges that were there before stay as long as the answers are the same.
    """
    path = run.folder / INDEX
    known: dict[str, Any] = {}
    if path.is_file() and (old := _index(run.folder))["answers"] == key:
        known = dict(old["judges"])
    for each in judged:
        known[each.name] = {
            "describes": each.describes,
            "languages": list(each.languages),
            "stages": stages[each.name],
        }
    text = {"schema_version": 1, "answers": key, "judges": known}
    run.write_text(INDEX, _json(text))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def recall(folder: Path) -> list[Judged]:
    """Every judge's stored verdicts on the kept answers, first come first."""
    found = []
    for name, row in _index(folder)["judges"].items():
        verdicts: ByCondition = {}
        for condition, (kind, key) in row["stages"].items():
            stage = Stage(kind, key, {}, folder / "stages" / kind / key)
            rows = stage.read_table("verdicts.jsonl", Verdict)
            verdicts[condition] = [replace(each, condition=condition, judge=name) for each in rows]
        found.append(Judged(name, row["describes"], tuple(row["languages"]), verdicts))
    return found


def judged_by_program(folder: Path, name: str) -> bool:
    """Whether stored verdicts of that name come from a judge that is no person."""
    row = _index(folder)["judges"].get(name)
    return row is not None and any(kind != "human" for kind, _ in row["stages"].values())


def judge_with(
    run: Run,
    reader: Judge,
    examples: Sequence[Example],
    responses: Mapping[str, Sequence[Response]],
    pictures: Mapping[str, str] | None = None,
) -> tuple[Judged, dict[str, list[str]]]:
    """One judge's verdicts in every condition, from the store if they are there.

    The key holds all prompts with their pictures' bytes (a judge may look at siblings), answers,
    what the judge says of itself and this package's version, and nothing of the model that
    answered or of folders: verdicts are reused wherever the same was said. `pictures` gives hashes
    of pictures that need not be there.
    """
    by_id = {example.id: example for example in examples}
    among = fingerprint(examples, pictures)
    verdicts, stages = {}, {}
    for condition, said in responses.items():
        asked = [by_id[each.example] for each in said]
        made_by = {
            "version": __version__,
            "judge": reader.name,
            "reads": digest(reader.describe()),
            "data": among,
            "texts": digest([[each.example, each.text] for each in said]),
        }
        stage = run.store.stage("judge", made_by)
        with run.working(stage, f"judge {condition} with {reader.name}", by="leader") as todo:
            if todo:
                pairs = list(zip(asked, said, strict=True))
                stage.write_table("verdicts.jsonl", reader.judge(pairs))
        rows = stage.read_table("verdicts.jsonl", Verdict)
        verdicts[condition] = [replace(row, condition=condition) for row in rows]
        stages[condition] = ["judge", stage.key]
    return Judged(reader.name, reader.describe(), reader.languages, verdicts), stages

"""Tasks of lm-eval on a model in memory (`pip install "precise-shield[lm-eval]"`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any

from precise_shield.core.errors import ConfigError, DataError
from precise_shield.core.rates import Rate
from precise_shield.models.loading.model import LoadedModel


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task; what lm-eval gives no finite number for is left out."""

    task: str
    metric: str
    """As lm-eval names it, with its filter: `acc,none`."""
    value: float
    low: float | None
    """Wilson 95 % interval where every row of the task scored 0 or 1; None otherwise."""
    high: float | None
    n: int
    """Rows of the task that were asked."""


def harness_scores(
    loaded: LoadedModel,
    tasks: Sequence[str],
    include: Path | None = None,
    *,
    limit: int | None = None,
    fewshot: int | None = None,
    chat: bool = False,
    batch_size: int = 8,
    seed: int = 0,
) -> list[TaskScore]:
    """Score the model as it stands, edits and all, on tasks by name; text alone.

    Args:
        loaded: the model; it is not copied, moved or saved.
        tasks: names, of lm-eval's own tasks or of those in `include`.
        include: folder of task files (YAML); with it lm-eval's own tasks are not looked at.
        limit: rows of each task; None asks all.
        fewshot: examples before each question; None leaves it to the task.
        chat: put questions through the model's chat template.
        batch_size: prompts a pass.
        seed: of few-shot draws and sampling.

    Raises:
        ConfigError: lm-eval is missing, or a task is not there.
        DataError: a task's data cannot be had, e.g. without a network.
    """
    lm_eval, models, managers = _library()
    folder = None if include is None else str(include)
    manager = managers.TaskManager(include_path=folder, include_defaults=include is None)
    if missing := [name for name in tasks if name not in manager.all_tasks]:
        raise ConfigError(
            f"lm-eval has no task {missing[0]!r}"
            + ("." if include is None else f" in {include}; it has {sorted(manager.all_tasks)}.")
        )
    tokenizer = deepcopy(loaded.tokenizer)
    tokenizer.chat_template = loaded.template
    wrapped = models.HFLM(
        pretrained=loaded.model, backend="causal", tokenizer=tokenizer, batch_size=batch_size
    )
    try:
        found = lm_eval.simple_evaluate(
            model=wrapped,
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            num_fewshot=fewshot,
            apply_chat_template=chat,
            bootstrap_iters=0,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"lm-eval could not run {', '.join(tasks)} ({reason:.300})") from error
    return scores_of(found)


def _library() -> tuple[Any, Any, Any]:
    """lm-eval, its Hugging Face models, its tasks."""
    names = ("lm_eval", "lm_eval.models.huggingface", "lm_eval.tasks")
    try:
        first, models, tasks = map(import_module, names)
    except ImportError as error:
        raise ConfigError(
            f'evaluate.harness needs lm-eval ({error}): pip install "precise-shield[lm-eval]", or'
            " leave it out."
        ) from error
    return first, models, tasks


def scores_of(found: Mapping[str, Any]) -> list[TaskScore]:
    """Read lm-eval's results: every metric of every task and group, with intervals of shares."""
    scores = []
    for task, row in found["results"].items():
        for metric, value in row.items():
            name, _, which = metric.partition(",")
            number = isinstance(value, int | float) and isfinite(value)
            if not which or name.endswith("_stderr") or not number:
                continue
            samples = [s for s in found.get("samples", {}).get(task, ()) if _of(s, which)]
            each = [sample.get(name) for sample in samples]
            low = high = None
            if each and all(isinstance(x, int | float) and x in (0, 1) for x in each):
                low, high = Rate(int(sum(each)), len(each)).interval()
            n = int(row.get("sample_len") or len(samples))
            scores.append(TaskScore(task, metric, float(value), low, high, n))
    return scores


def _of(sample: Mapping[str, Any], which: str) -> bool:
    return bool(sample.get("filter", "none") == which)

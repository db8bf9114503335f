"""A run's configuration: one YAML, every field documented, unknown keys refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from precise_shield.core.errors import ConfigError
from precise_shield.core.records import Modality, Split
from precise_shield.core.registry import suggestion


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True)


class ModelSection(Section):
    path: str
    """Hub id, local folder, .gguf file, or the embedded `sandbox` and `sandbox-negative`."""

    revision: str | None = None
    """Hub commit to pin."""

    gguf_file: str | None = None
    """Name of a GGUF file inside `path`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; `auto` takes the checkpoint's own."""

    device: str = "auto"
    """`auto` takes CUDA, then MPS, then the CPU."""

    threads: int | None = Field(default=None, gt=0)
    """CPU threads; null leaves torch's choice. One is best for tiny models: more wait for each
    other wherever another process has a core."""

    trust_remote_code: bool = False
    """Run code that comes with the checkpoint. Off unless you trust its authors."""

    chat_template: Path | None = None
    """File with a Jinja chat template, for models that come without one."""


class SourceSection(Section):
    source: str
    """Name of a dataset loader; `precise-shield list` shows them."""

    path: str | None = None
    """File or folder of the dataset, where the loader reads one."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the loader."""

    limit: int | None = Field(default=None, gt=0)
    """Keep at most this many groups of each split and harm."""


class DataSection(Section):
    sources: list[SourceSection] = Field(min_length=1)
    """Datasets, read in this order."""

    languages: list[str] | None = None
    """Keep only these languages; null keeps all."""

    modalities: list[Modality] | None = None
    """Keep only these modalities; null keeps all."""

    on_bad_row: Literal["stop", "skip"] = "stop"
    """What a malformed row does; skipped rows are counted in the report."""

    benign_targets: Literal["given", "self", "opener"] = "self"
    """Answers of benign probing and training rows that bring none: the model's own, or a neutral
    opener of about three tokens; `given` refuses such rows."""

    benign_tokens: int = Field(default=48, gt=0)
    """Longest own answer."""


class IdentifySection(Section):
    score: str = "precise_shield"
    """Importance of a neuron; `precise-shield list` shows them."""

    position: Literal["response_mean", "last_prompt", "prompt_mean"] = "response_mean"
    """Token position whose activations select."""

    p: float = Field(default=0.03, gt=0, le=0.5)
    """Share of each layer in the top of either arm (Precise Shield, Eq. 7)."""

    sweep: list[float] = [0.01, 0.02, 0.03, 0.05, 0.10]
    """Other values of p to show beside it."""

    anchor: str = "en"
    """High-resource language that shared sets are taken with."""

    high_resource: list[str] = ["en", "zh"]
    """Languages drawn as high-resource in the report."""

    chosen: str = "MLS"
    """Set that is verified and tuned: a name or an expression over names with & | - ( )."""

    draws: int = Field(default=199, ge=19)
    """Draws of shuffled labels; half-splits take a tenth of them."""

    batch_size: int = Field(default=64, gt=0)
    """Examples a forward pass; halved when memory runs out."""


class VerifySection(Section):
    split: Split = "validation"
    """Prompts on which suppression is read out."""

    random_sets: int = Field(default=99, ge=1)
    """Matched random sets beside the chosen one; p-values cannot go below 1 / (1 + this)."""

    per_cell: int | None = Field(default=None, gt=0)
    """At most this many prompts a cell; null takes all."""

    batch_size: int = Field(default=64, gt=0)
    """Prompts a forward pass."""


class ZeroShotSection(Section):
    name: str
    """Name of the condition."""

    languages: list[str] | None = None
    """Languages that are trained on; null trains on all."""

    modalities: list[Modality] | None = None
    """Modalities that are trained on; null trains on all."""

    chosen: str | None = None
    """Set that is tuned; null takes `identify.chosen`."""


class AlignSection(Section):
    form: Literal["lora_rows", "direct"] = "lora_rows"
    """`lora_rows`: W' = W + (M * B) A on gate and up (Precise Shield, Eq. 9-11).
    `direct`: the rows and columns themselves (SS-Neurons)."""

    rank: int = Field(default=8, gt=0)
    """Rank of the row-masked LoRA."""

    alpha: float = Field(default=16.0, gt=0)
    """LoRA's scaling is alpha / rank."""

    dropout: float = Field(default=0.05, ge=0, lt=1)
    """LoRA's dropout, in training only."""

    learning_rate: float = Field(default=8e-4, gt=0)
    """Peak learning rate of AdamW."""

    epochs: int = Field(default=3, gt=0)
    """Passes over the training rows."""

    max_steps: int | None = Field(default=None, gt=0)
    """Stop after this many steps; null trains all epochs."""

    batch_size: int = Field(default=32, gt=0)
    """Rows a step."""

    micro_batch: int | None = Field(default=None, gt=0)
    """Rows a forward pass; null takes the whole batch."""

    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""

    reduction: Literal["sum", "mean"] = "mean"
    """Answer-token loss: `sum` as Precise Shield's Eq. 12, or a mean over the batch's tokens."""

    kl_weight: float = Field(default=0.0, ge=0)
    """Weight of KL(base || tuned) on benign rows."""

    splits: list[Split] = ["train"]
    """Splits that are trained on."""

    languages: list[str] | None = None
    """Languages that are trained on; null trains on all."""

    modalities: list[Modality] | None = None
    """Modalities that are trained on; null trains on all."""

    random_seeds: int = Field(default=1, ge=1)
    """Random-row controls, each trained with the same budget."""

    zero_shot: list[ZeroShotSection] = []
    """Further trainings on a part of the data, to see what transfers."""


class EvaluateSection(Section):
    split: Split = "test"
    """Prompts that are answered and judged."""

    judge: str = "reference"
    """Who reads the answers; `precise-shield list` shows them."""

    rule: str = "ours"
    """Which verdicts count as a hit of the attack."""

    max_new_tokens: int = Field(default=256, gt=0)
    """Longest answer; at least 100 for real models, or compliance is missed."""

    batch_size: int = Field(default=32, gt=0)
    """Prompts a generation batch; halved when memory runs out."""

    random_suppressions: int = Field(default=1, ge=0)
    """Random sets that are suppressed while generating."""

    kl_rows: int = Field(default=200, ge=0)
    """Benign test rows on which the drift from the base model is measured."""

    samples: int = Field(default=24, ge=0)
    """Prompts whose answers are shown in the report."""


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
        data = yaml.safe_load(text)
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
        ConfigError: listing every problem, with the nearest known key for unknown ones.
    """
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        problems = [_sentence(item) for item in error.errors()]
        raise ConfigError(f"{origin}: " + "; ".join(problems) + ".") from error


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
    here[int(last) if isinstance(here, list) else last] = yaml.safe_load(value)


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

"""Who answers what, who judges, and how it is counted."""

from __future__ import annotations

from pydantic import Field

from precise_shield.core.records import Split
from precise_shield.workflows.base.sections.base import Section
from precise_shield.workflows.base.sections.judges import JudgeModelSection
from precise_shield.workflows.base.sections.servers import ServerSection


class HarnessSection(Section):
    tasks: list[str] = Field(min_length=1)
    """Names of lm-eval's tasks, e.g. `mmlu` or `mgsm_direct_en`; its data come from the hub."""

    include: str | None = None
    """Folder of task files of your own (YAML), taken in place of lm-eval's: nothing is fetched
    where their data are local."""

    limit: int | None = Field(default=None, gt=0)
    """Rows of each task; null asks all."""

    fewshot: int | None = Field(default=None, ge=0)
    """Examples before each question; null leaves it to the task."""

    chat: bool = False
    """Put questions through the model's chat template."""

    batch_size: int = Field(default=8, gt=0)
    """Prompts a pass."""


class EvaluateSection(Section):
    split: Split = "test"
    """Prompts that are answered and judged."""

    judge: str = "reference"
    """Who reads the answers; `precise-shield list` shows them."""

    judges: list[str] = []
    """Several judges on the same answers; the headline rests on the first. Takes the place of
    `judge`."""

    judge_models: list[JudgeModelSection] = []
    """Judges that are models, to be named in `judge` or `judges`."""

    rule: str = "ours"
    """Which verdicts count as a hit of the attack."""

    max_new_tokens: int = Field(default=256, gt=0)
    """Longest answer; at least 100 for real models, or compliance is missed."""

    batch_size: int = Field(default=32, gt=0)
    """Prompts a generation batch; halved when memory runs out."""

    random_suppressions: int = Field(default=1, ge=0)
    """Random sets that are suppressed while generating."""

    defences: list[str] = []
    """Defences of the untouched model to compare with: `precise-shield list` shows them."""

    servers: list[ServerSection] = []
    """Served models that answer the same prompts (vLLM, SGLang, any OpenAI-compatible server). In
    a run they stand beside the local model's states; `precise-shield served` needs no local model,
    and compares all of them with the first."""

    audit: bool = False
    """Attack the aligned model in memory (prune, round, fine-tune on benign rows) and say what
    is left. About seven more conditions on `audit_rows` prompts."""

    audit_rows: int = Field(default=200, gt=0)
    """Harmful test prompts that are answered after each attack."""

    audit_steps: int = Field(default=10, gt=0)
    """Benign fine-tuning steps, a LoRA of rank 8 on gate and up at `align.learning_rate`."""

    audit_bits: list[int] = [8, 4]
    """Bits that the weights are rounded to."""

    kl_rows: int = Field(default=200, ge=0)
    """Benign test rows on which the drift from the base model is measured."""

    readout_rows: int = Field(default=400, ge=0)
    """Test prompts whose first-token refusal log-odds are read in every condition; 0 reads none."""

    utility_rows: int = Field(default=200, ge=0)
    """Benign test rows whose given answers, and multiple choices whose letters, are scored by
    likelihood in every condition; 0 scores none."""

    harness: HarnessSection | None = None
    """Tasks of lm-eval in every condition (`precise-shield[lm-eval]`), beside the built-in ones."""

    samples: int = Field(default=24, ge=0)
    """Prompts whose answers are shown in the report."""

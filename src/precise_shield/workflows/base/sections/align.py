"""How the neurons are trained, and beside which controls."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.records import Modality, Split
from precise_shield.workflows.base.sections.base import Section
from precise_shield.workflows.base.sections.gate import EarlyStopSection, GateSection, SearchSection

ArmName = Literal["benign_rows", "frozen_a", "lora", "lora_matched", "full", "amplified"]


Scope = Literal["prompt", "context", "first_decision", "response"]


class ZeroShotSection(Section):
    name: str
    """Name of the condition."""

    languages: list[str] | None = None
    """Languages that are trained on; null trains on all."""

    modalities: list[Modality] | None = None
    """Modalities that are trained on; null trains on all."""

    chosen: str | None = None
    """Set that is tuned; null takes `identify.chosen`."""

    without_categories: list[str] = []
    """Harm categories whose rows are left out; benign rows have none and stay."""

    sets_of: list[str] | None = None
    """Languages whose cells the named sets are made of; null takes all. Where the chosen set
    cannot be named without the others, it is taken with all, and the condition says so."""


class TransferSection(Section):
    by: Literal["language", "modality"]
    """One training for each language, or modality, of the training data, asked in all."""

    sources: list[str] | None = None
    """The languages or modalities to train on, one at a time; null takes all there are."""

    chosen: str = "own"
    """Set that each one tunes: `own` is its own, `MS:<language>` or the union over languages of
    `<language>/<modality>`; otherwise a set expression with `{source}` for its name."""


class CacheSection(Section):
    where: Literal["off", "memory", "disk"] = "off"
    """Where to keep what the frozen part gives, computed once a row: the hidden state that enters
    the lowest trained block (at block 0: what each picture gives), and what the base model says
    on benign rows or pairs. `disk` keeps it in the run folder, for every training of the run."""

    limit_mb: int = Field(default=4096, gt=0)
    """Most MiB of it; more is refused before a training starts."""


class DampSection(Section):
    on: bool = False
    """Damp the neurons that go with the model's own complied answers, without training (SGM);
    needs `identify.responses: own_refused`."""

    chosen: str = "complied"
    """Set that is damped: `complied`, `complied:<language>/<modality>`, or an expression over
    them. Neurons of the safety sets are never among them."""

    strength: float = Field(default=0.5, gt=0, lt=1)
    """By how much: a neuron that tells complied from refused answers perfectly is multiplied by
    1 - strength, one that tells nothing by 1."""

    scopes: list[Scope] = []
    """Also measured as an edit at inference at these positions alone, e.g. `response`."""

    random_seeds: int = Field(default=1, ge=1)
    """Random-neuron controls, damped by the same factors."""


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

    gradient_checkpointing: bool = False
    """Run each block again in the backward pass in place of keeping what is inside it: the same
    result, less memory, about a third more time."""

    sparing: bool = False
    """Compute norms and activation functions of the blocks again in the backward pass: a part of
    that saving for a few per cent more time; gradients equal to float32 rounding."""

    cache: CacheSection = CacheSection()
    """Exact savings: what no training changes is computed once."""

    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""

    reduction: Literal["sum", "mean"] = "mean"
    """Answer-token loss: `sum` as Precise Shield's Eq. 12, or a mean over the batch's tokens."""

    objective: Literal["nll", "dpo"] = "nll"
    """`nll`: the targets' likelihood (both papers). `dpo`: pairs; a harmful request's refusal
    above the base model's own answer where that is a hit, a benign answer above a refusal."""

    beta: float = Field(default=0.1, gt=0)
    """Of `dpo`, per nat."""

    polarity: Literal["chosen", "rest"] = "chosen"
    """`chosen` trains the chosen neurons. `rest` freezes them and trains all others in their
    direct form, so that safety spreads (SafeNeuron); its control freezes random ones instead."""

    kl_weight: float = Field(default=0.0, ge=0)
    """Weight of KL(base || tuned) on benign rows."""

    splits: list[Split] = ["train"]
    """Splits that are trained on."""

    languages: list[str] | None = None
    """Languages that are trained on; null trains on all."""

    modalities: list[Modality] | None = None
    """Modalities that are trained on; null trains on all."""

    seed: int | None = None
    """Of a training's start, order and dropout; null takes the run's own `seed`. Other values train
    the same neurons again, without finding them anew."""

    random_seeds: int = Field(default=1, ge=1)
    """Random-row controls, each trained with the same budget."""

    arms: list[ArmName] = []
    """Further trainings of the same rows of data, beside the chosen neurons and the random ones:
    `benign_rows` neurons that only benign inputs select, as many a layer; `frozen_a` the chosen
    rows of B alone, A staying random; `lora` plain LoRA on all rows of the searched projections
    at the same rank; `lora_matched` the same at the rank whose parameter count is nearest;
    `full` full fine-tuning, of what `full` says; `amplified` no training, the chosen neurons' down
    columns times `factor`, with a random control."""

    full: Literal["searched", "all"] = "searched"
    """What the arm `full` trains: every row and column of the searched units, in every layer; or
    `all` parameters of the model, embeddings (a tied one once), norms, biases, head and other
    towers included. Its delta then holds the whole model twice, old and new."""

    factor: float = Field(default=2.0, ge=1)
    """By how much `amplified` scales; at least 1, for less would suppress."""

    zero_shot: list[ZeroShotSection] = []
    """Further trainings on a part of the data, to see what transfers."""

    transfer: list[TransferSection] = []
    """Whole transfer matrices, trained on the row and asked in the column: as many further
    trainings as there are languages or modalities, each beside its random rows."""

    leave_out: list[Literal["language", "category"]] = []
    """One training for each language, or harm category, of the training data, without it:
    `without-<name>`, its set made without that language too, beside its random rows. The test
    prompts are also put together from the trainings that never saw them (`left-out-language`)."""

    zero_shot_seeds: int = Field(default=1, ge=0)
    """Random-row controls of each zero-shot training, on the same part of the data."""

    damp: DampSection = DampSection()
    """SGM's soft suppression of the neurons that drive harmful output."""

    gate: GateSection = GateSection()
    """What the aligned model has to keep before it is exported."""

    search: SearchSection = SearchSection()
    """Settings to try on validation data, the same for every arm."""

    early_stop: EarlyStopSection = EarlyStopSection()
    """When a training ends before its last step, the same for every arm."""

    track: list[Literal["tensorboard", "wandb"]] = []
    """Where figures go besides `metrics.jsonl`: TensorBoard's event files, or a run of Weights &
    Biases, which stays on this machine unless WANDB_MODE is `online`."""

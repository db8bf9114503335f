"""How safety neurons are found."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from precise_shield.core.sites import Tower, UnitKind
from precise_shield.workflows.base.sections.base import Section

Place = Literal["response_mean", "first_decision", "last_prompt", "prompt_mean", "image_mean"]


class IdentifySection(Section):
    units: list[UnitKind] = Field(default=["ffn"], min_length=1)
    """Kinds of units to search: `ffn` (feed-forward neurons), `expert` (those of routed experts),
    `query`, `key`, `value` (rows of W_Q, W_K, W_V), `attention` (columns of W_O). Each layer and
    kind gives its own top p; `precise-shield doctor` shows what a model has."""

    towers: list[Tower] = Field(default=["text"], min_length=1)
    """Towers to search: `text`, the language model, and `vision`, the one that sees pictures. All
    examples then need a picture (`data.modalities`); its units are averaged over all patches."""

    score: str = "precise_shield"
    """Importance of a neuron; `precise-shield list` shows them."""

    also: list[str] = []
    """Other scores to compare with it. What reads more than activations takes a pass of its own."""

    deactivation_examples: int | None = Field(default=16, gt=0)
    """Examples a cell in which `deactivation` switches every neuron off on its own; null takes all.
    It runs the layers above each neuron again: hours for a large model on a CPU."""

    position: Place = "response_mean"
    """Token position whose activations select: `response_mean` (the positions that predict the
    response), `first_decision` (the one that predicts its first token), `last_prompt` (the last of
    the user's own words), `prompt_mean` or `image_mean`."""

    positions: list[Place] = ["response_mean", "last_prompt"]
    """Positions to collect beside it, so that sets can be chosen there later."""

    folded: Literal["all", "selecting"] = "all"
    """Positions that keep 16 folds, which confidence needs: all, or the selecting one alone, which
    takes a sixteenth of the memory for each of the others."""

    p: float = Field(default=0.03, gt=0, le=0.5)
    """Share of each layer in the top of either arm (Precise Shield, Eq. 7)."""

    scope: Literal["layer", "global"] = "layer"
    """`layer` takes the top p of every layer (Eq. 7), `global` of all layers together."""

    universal: float | None = Field(default=None, gt=0, le=1)
    """Leave out neurons in the top p of at least this share of the benign data's parts, such as 0.8
    (contrastive neuron attribution); null leaves out none."""

    categories: bool = False
    """Keep statistics of each harm category too, over all languages and modalities."""

    responses: Literal["given", "own_refused"] = "given"
    """Responses that the model reads: the targets given, or its own, kept where it refused the
    harmful and answered the benign prompts, as judged. With its own, `refused:` sets tell harmful
    prompts that it refused from those that it answered."""

    factorial: bool = False
    """Read every prompt with a refusal and with an answer too, which gives `prompt:`, `response:`
    and `interaction:` sets; outside the embedded world the answer is its first three tokens."""

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

    from_stats: list[str] | None = None
    """`stats.safetensors` of an earlier run, one a pass, to choose from again without the model."""

    bootstrap: int = Field(default=100, ge=0)
    """Draws of the folds with replacement, for the confidence of every set."""

    batch_size: int | None = Field(default=64, gt=0)
    """Examples a forward pass; halved when memory runs out. Null finds the largest that fits, by
    running the longest examples."""

    checkpoint_seconds: float = Field(default=60, ge=0)
    """How often an unfinished collection is saved, so that it can be taken up again."""

"""Importance scores: pure functions of stored statistics. Each names its paper and equation.

A new score is one function and one registration; where it reads something else than the
activation, its quantity is a pass in `passes.py` or beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.moments import Pooled
from precise_shield.core.registry import Registry
from precise_shield.identify.collect import ACTIVATION, Quantity
from precise_shield.identify.deactivation import FINAL_HIDDEN, LOGITS, RESIDUAL
from precise_shield.identify.passes import ATTRIBUTION, MAGNITUDE, SNIP, WANDA

EPSILON = 1e-12
Norms = Float[Tensor, " width"]
Scores = Float[Tensor, "*draws width"]


@dataclass(frozen=True)
class Score:
    """One way to say how much a neuron matters.

    `contrast` scores compare the two arms themselves, and the set is their top p. Others score
    each arm alone, and the set is top(harmful) without top(benign) (Eq. 8).
    """

    compute: Callable[[Pooled, Pooled, Norms], Scores]
    """`(arm, other arm, column norms) -> score`."""

    kind: Literal["single", "contrast"]
    source: str

    quantity: Quantity = ACTIVATION
    """What the arms hold; anything but the activation takes a pass of its own."""


SCORES: Registry[Score] = Registry("score")

EXACT = ("deactivation", "deactivation_logits", "deactivation_residual")
"""Scores, and their quantities, for which every neuron is switched off on its own."""

LOCAL = "deactivation_local"
"""Their one-pass stand-in."""


def _share(importance: Scores) -> Scores:
    return importance / (importance.sum(-1, keepdim=True) + EPSILON)


def precise_shield(arm: Pooled, _: Pooled, norms: Norms) -> Scores:
    """`|mean activation| x column norm`, as a share of its layer.

    Source: Precise Shield (arXiv 2604.08881), Eq. 4-6.
    """
    return _share(arm.mean.abs() * norms)


def one_anchor(arm: Pooled, _: Pooled, norms: Norms) -> Scores:
    """`mean |activation| x column norm`, as a share of its layer.

    Source: One Anchor for All (arXiv 2607.27917).
    """
    return _share(arm.magnitude * norms)


def contrastive_difference(arm: Pooled, other: Pooled, norms: Norms) -> Scores:
    """`|mean harmful - mean benign| x column norm`.

    Source: contrastive neuron attribution (arXiv 2605.12290), weighted by what the unit writes.
    """
    return (arm.mean - other.mean).abs() * norms


def effect_size(arm: Pooled, other: Pooled, _: Norms) -> Scores:
    """`|mean harmful - mean benign|` in pooled standard deviations; 0 where nothing varies.

    Source: SafeNeuron (arXiv 2602.12158), activation effect size (Cohen's d).
    """
    weight = arm.count + other.count - 2
    var = ((arm.count - 1) * arm.var + (other.count - 1) * other.var) / weight
    return torch.where(var > 0, (arm.mean - other.mean).abs() / var.sqrt(), 0.0)


def mean_of(arm: Pooled, _: Pooled, __: Norms) -> Scores:
    """The mean over examples of a quantity that is an importance as it is streamed."""
    return arm.mean


def local_deactivation(arm: Pooled, _: Pooled, norms: Norms) -> Scores:
    """Mean norm of what the unit adds to its block's output: `mean |activation| x column norm`.

    The one-pass stand-in for exact deactivation: what the blocks above make of it is left out,
    and so is a norm between the down-projection and the residual stream.
    Source: SS-Neurons (arXiv 2602.01283), importance, cut off at the unit's own block.
    """
    return arm.mean * norms


SCORES.register("precise_shield")(
    Score(precise_shield, "single", "Precise Shield, arXiv 2604.08881, Eq. 4-6")
)
SCORES.register("one_anchor")(Score(one_anchor, "single", "One Anchor for All, arXiv 2607.27917"))
SCORES.register("contrastive_difference")(
    Score(contrastive_difference, "contrast", "CNA, arXiv 2605.12290")
)
SCORES.register("effect_size")(Score(effect_size, "contrast", "SafeNeuron, arXiv 2602.12158"))
SCORES.register("pathways")(
    Score(
        mean_of,
        "single",
        "gradient x activation summed over response tokens: Pathways, arXiv 2608.09095, Eq. 1-2",
        ATTRIBUTION,
    )
)
SCORES.register("wanda")(
    Score(mean_of, "single", "|W| x input norm: Wei et al., ICML 2024, arXiv 2402.05162", WANDA)
)
SCORES.register("snip")(
    Score(mean_of, "single", "|W x gradient|: Wei et al., ICML 2024, arXiv 2402.05162", SNIP)
)
SCORES.register("deactivation")(
    Score(mean_of, "single", "SS-Neurons, arXiv 2602.01283, last hidden state", FINAL_HIDDEN)
)
SCORES.register("deactivation_residual")(
    Score(mean_of, "single", "SS-Neurons, arXiv 2602.01283, before the final norm", RESIDUAL)
)
SCORES.register("deactivation_logits")(
    Score(mean_of, "single", "SS-Neurons, arXiv 2602.01283, logits", LOGITS)
)
SCORES.register("deactivation_local")(
    Score(local_deactivation, "single", "SS-Neurons, arXiv 2602.01283, within the block", MAGNITUDE)
)

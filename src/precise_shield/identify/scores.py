"""Importance scores: pure functions of stored statistics. Each names its paper and equation."""

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


SCORES.register("precise_shield")(
    Score(precise_shield, "single", "Precise Shield, arXiv 2604.08881, Eq. 4-6")
)
SCORES.register("one_anchor")(Score(one_anchor, "single", "One Anchor for All, arXiv 2607.27917"))
SCORES.register("contrastive_difference")(
    Score(contrastive_difference, "contrast", "CNA, arXiv 2605.12290")
)
SCORES.register("effect_size")(Score(effect_size, "contrast", "SafeNeuron, arXiv 2602.12158"))

"""Softly suppressing the neurons that drive harmful output: each by as much as it tells of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.align.amplify import FORM
from precise_shield.align.slices import fingerprint, slices_of
from precise_shield.align.sparse import Change, SparseDelta
from precise_shield.core.errors import ConfigError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.models.architecture.bind import BoundModel


def factors_of(
    expertise: Mapping[Site, Float[Tensor, " width"]], strength: float
) -> dict[Site, Float[Tensor, " width"]]:
    """What every unit is multiplied by: `1 - strength * (2 * expertise - 1)`, in (0, 1].

    Args:
        expertise: how well a unit tells complied from refused answers, an AUROC in [0.5, 1].
        strength: in (0, 1); 1 would silence a perfect teller, and nothing silences.

    Raises:
        ConfigError: the strength is outside (0, 1).

    Source: SGM (arXiv 2512.15052), "expertise-weighted soft suppression": its abstract gives no
        formula, so this is our reading. The weight is AurA's (arXiv 2407.12824), which has no
        strength (1 here); the AUROC is taken from means and variances.
    """
    if not 0 < strength < 1:
        raise ConfigError(f"strength {strength} is not between 0 and 1: damping never silences.")
    return {site: 1 - strength * (2 * value - 1) for site, value in expertise.items()}


def damped(
    bound: BoundModel, neurons: NeuronSet, factors: Mapping[Site, Float[Tensor, " width"]]
) -> SparseDelta:
    """The delta that multiplies what every neuron writes by its factor; the model is not changed.

    Raises:
        ConfigError: a factor is not in (0, 1], or a neuron is of attention's queries, keys or
            values, which write nothing by themselves.
    """
    strange = [site for site in neurons.units if site.kind not in ("ffn", "attention")]
    if strange:
        raise ConfigError(f"{strange[0]} has no column of its own to damp; damp ffn or attention.")
    changes = []
    for site, ids in neurons.units.items():
        mine = NeuronSet.of({site: ids})
        scale = factors[site][list(ids)]
        if not bool(((scale > 0) & (scale <= 1)).all()):
            raise ConfigError(f"{site}: factors of damping must be above 0 and at most 1.")
        for one in slices_of(bound, mine, FORM.roles):
            old = one.read()
            wide = torch.promote_types(old.dtype, torch.float32)
            new = (old.to(wide) * scale.to(old.device, wide)[:, None]).to(old.dtype)
            base = fingerprint(one.weight)
            changes.append(Change(one.name, one.dim, one.index, old.cpu(), new.cpu(), base))
    return SparseDelta(tuple(changes), neurons, "damped", 0, {})

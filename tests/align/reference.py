"""The literal form of both methods: full-size parameters whose gradient is masked.

Written from the papers' equations with nothing of `precise_shield.align` but the seed's A.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from precise_shield.core.sites import NeuronSet
from precise_shield.models.architecture.bind import BoundModel

ROWS = ("gate", "up", "query", "key", "value")
EVERY = (*ROWS, "down", "out", "query_bias", "key_bias", "value_bias")


def masks(bound: BoundModel, neurons: NeuronSet, roles: tuple[str, ...]) -> dict[str, Tensor]:
    """1 where a chosen neuron owns the weight."""
    found: dict[str, Tensor] = {}
    for site, ids in neurons.units.items():
        for own in bound.sites[site].owned:
            if own.role in roles:
                mask = found.setdefault(own.name, torch.zeros_like(own.weight))
                for unit in ids:
                    position, one, dim = own.offset + own.stride * unit, mask, own.dim
                    if mask.dim() == 3:  # an expert's own matrix
                        expert, position = divmod(position, mask.shape[dim])
                        one, dim = mask[expert], dim - 1
                    one.select(dim, position).fill_(1.0)
    return found


def train_masked_full(bound, neurons, rows, *, steps, lr, clip) -> list[float]:
    """Full gradients, multiplied by the mask before clipping and AdamW (SS-Neurons); without
    `neurons` as they are: the plain loop that everybody writes."""
    allowed = {} if neurons is None else masks(bound, neurons, EVERY)
    others = torch.ones(()) if neurons is None else torch.zeros(())
    parameters = dict(bound.model.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=lr, weight_decay=0.0)
    losses = []
    for step in range(steps):
        batch = rows(step)
        loss = bound.model(**batch.inputs, labels=batch.labels).loss
        loss.backward()
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                parameter.grad *= allowed.get(name, others)
        torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def train_masked_lora(
    bound, neurons, rows, start_a, *, rank, alpha, steps, lr, clip, freeze_a=False
) -> list[float]:
    """Plain LoRA with a full B whose gradient is masked row by row (Precise Shield, Eq. 9-11)."""
    allowed = masks(bound, neurons, ROWS)
    conv = {name: isinstance(_owner(bound, name), Conv1D) for name in allowed}
    a = {name: start_a[name].detach().clone().requires_grad_(not freeze_a) for name in allowed}
    b = {}
    for name, mask in allowed.items():
        by_row = mask.T if conv[name] else mask
        b[name] = torch.zeros(by_row.shape[0], rank, requires_grad=True)
        row_mask = by_row.amax(1, keepdim=True)
        b[name].register_hook(lambda grad, m=row_mask: grad * m)
    learning = [p for p in [*a.values(), *b.values()] if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=lr, weight_decay=0.0)
    frozen = {name: p.detach() for name, p in bound.model.named_parameters()}

    def merged() -> dict[str, Tensor]:
        out = dict(frozen)
        for name in allowed:
            update = b[name] @ a[name] * (alpha / rank)
            out[name] = frozen[name] + (update.T if conv[name] else update)
        return out

    losses = []
    for step in range(steps):
        batch = rows(step)
        out = functional_call(bound.model, merged(), (), {**batch.inputs, "labels": batch.labels})
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out.loss.item())
    with torch.no_grad():
        for name, value in merged().items():
            bound.model.get_parameter(name).copy_(value)
    return losses


def _owner(bound: BoundModel, name: str) -> torch.nn.Module:
    return bound.model.get_submodule(name.removesuffix(".weight"))

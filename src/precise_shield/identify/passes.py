"""Quantities that need a pass of their own: sizes, weights times inputs, gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from precise_shield.core.errors import ConfigError, DataError, UnsupportedModelError
from precise_shield.core.sites import Site
from precise_shield.identify.collect import Batch, Emit, Quantity
from precise_shield.models.architecture.bind import BoundModel, BoundSite
from precise_shield.models.holding.held import whole
from precise_shield.models.passes.taps import SidePath, side_paths, tapped
from precise_shield.models.readings.head import answer_logits

Fans = tuple[Float[Tensor, "batch first"], Float[Tensor, "batch second"]]
"""Of a weight, an importance summed over its second dimension, and over its first."""


def _magnitude(bound: BoundModel, batch: Batch, emit: Emit) -> None:
    """Mean over the positions of the absolute activation, sizes that do not cancel."""
    weights = batch.weights()

    def fn(site: Site, acts: Tensor) -> None:
        for at, weight in weights.items():
            rows = torch.einsum("bp,bpw->bw", weight.to(acts.device), acts.float().abs())
            emit(site, at, rows)

    with torch.no_grad(), tapped(bound, fn):
        bound.backbone(**batch.inputs, use_cache=False)


def _attribution(bound: BoundModel, batch: Batch, emit: Emit) -> None:
    """Sum over the positions of activation times gradient of `log p(answer | prompt)`."""
    seen: dict[Site, Tensor] = {}

    def fn(site: Site, acts: Tensor) -> Tensor:
        seen[site] = _reached(acts)
        return seen[site]

    with _gradients(bound), tapped(bound, fn):
        loss = _loss(bound, batch)
    grads = torch.autograd.grad(loss, list(seen.values()), materialize_grads=True)
    for (site, acts), grad in zip(seen.items(), grads, strict=True):
        worth = -(acts.detach().float() * grad.float())
        for at, mask in batch.masks.items():
            rows = torch.einsum("bp,bpw->bw", mask.to(acts.device, torch.float32), worth)
            emit(site, at, rows)


def _wanda(bound: BoundModel, batch: Batch, emit: Emit) -> None:
    """Weight size times the root mean square of its input over the positions, summed a unit."""
    inputs: dict[nn.Module, Tensor] = {}

    def path_of(module: nn.Module) -> SidePath:
        def path(x: Tensor, y: Tensor) -> Tensor:
            inputs[module] = x
            return y

        return path

    with torch.no_grad(), side_paths({m: path_of(m) for m in _projections(bound)}):
        bound.backbone(**batch.inputs, use_cache=False)
    for at, weights in batch.weights().items():
        fans = {module: _wanda_fans(module, x, weights) for module, x in inputs.items()}
        for site, spot in bound.sites.items():
            emit(site, at, _owned_sum(spot, fans))


def _wanda_fans(module: nn.Module, x: Tensor, weights: Float[Tensor, "batch pos"]) -> Fans:
    size = torch.einsum("bp,bpi->bi", weights.to(x.device), x.float().square()).sqrt()
    weight = whole(module.get_parameter("weight")).detach().float().abs()
    if isinstance(module, nn.Linear):  # [out, in]
        return size @ weight.T, size * weight.sum(0)
    return size * weight.sum(1), size @ weight  # Conv1D: [in, out]


def _snip(bound: BoundModel, batch: Batch, emit: Emit) -> None:
    """Size of weight times gradient of `-log p(answer | prompt)`, an example, summed a unit.

    A weight's gradient is a sum over all tokens, whatever the position. It exists for one
    weight and one example at a time.
    """
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def path_of(module: nn.Module) -> SidePath:
        def path(x: Tensor, y: Tensor) -> Tensor:
            seen[module] = x.detach(), _reached(y)
            return seen[module][1]

        return path

    with _gradients(bound), side_paths({m: path_of(m) for m in _projections(bound)}):
        loss = _loss(bound, batch)
    outputs = [y for _, y in seen.values()]
    grads = torch.autograd.grad(loss, outputs, materialize_grads=True)
    fans = {
        module: _snip_fans(module, x, grad)
        for (module, (x, _)), grad in zip(seen.items(), grads, strict=True)
    }
    for site, spot in bound.sites.items():
        rows = _owned_sum(spot, fans)
        for at in batch.masks:
            emit(site, at, rows)


def _snip_fans(module: nn.Module, x: Tensor, grad: Tensor) -> Fans:
    weight = whole(module.get_parameter("weight")).detach().float()
    first, second = [], []
    for inside, outside in zip(x.float(), grad.float(), strict=True):
        slope = outside.T @ inside if isinstance(module, nn.Linear) else inside.T @ outside
        worth = slope.mul_(weight).abs_()
        first.append(worth.sum(1))
        second.append(worth.sum(0))
    return torch.stack(first), torch.stack(second)


def _owned_sum(spot: BoundSite, fans: Mapping[nn.Module, Fans]) -> Float[Tensor, "batch width"]:
    """Sum over all weights that each unit owns; a bias multiplies no input and is left out."""
    parts = [
        fans[own.module][own.dim][:, own.offset : own.offset + spot.width]
        for own in spot.owned
        if own.weight.dim() == 2
    ]
    return torch.stack(parts).sum(0)


def _projections(bound: BoundModel) -> dict[nn.Module, None]:
    """Every projection that some unit owns a slice of, in order."""
    found: dict[nn.Module, None] = {}
    for site, spot in bound.sites.items():
        for own in spot.owned:
            if own.weight.dim() > 2 or spot.block is not None:
                raise UnsupportedModelError(
                    f"{site} has no weight matrix of its own; wanda and snip need one. Choose"
                    " another score for such units."
                )
            found[own.module] = None
    return found


def _reached(values: Tensor) -> Tensor:
    """The same values, with a gradient: the first of a model start the graph."""
    return values if values.requires_grad else values.detach().requires_grad_()


def _loss(bound: BoundModel, batch: Batch) -> Float[Tensor, ""]:
    """`-log p(answer | prompt)` summed over the batch, whose examples do not meet.

    Raises:
        ConfigError: the batch has no labels.
        DataError: an example has no answer token.
    """
    if batch.labels is None:
        raise ConfigError("this score takes gradients of the answer, and the batch has no labels.")
    empty = (batch.labels[:, 1:] < 0).all(1).nonzero().flatten().tolist()
    if empty:
        raise DataError(
            f"an example of cell {batch.cells[empty[0]]} has no answer, and this score takes its"
            " gradient; give every probing example a target."
        )
    logits, targets = answer_logits(bound, batch.inputs, batch.labels)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


@contextmanager
def _gradients(bound: BoundModel) -> Iterator[None]:
    """Gradients flow, and none is kept for a weight; the flags are put back."""
    learning = [weight for weight in bound.model.parameters() if weight.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)


MAGNITUDE = Quantity(
    "magnitude", _magnitude, "mean absolute activation over the example's positions"
)
ATTRIBUTION = Quantity(
    "attribution",
    _attribution,
    "activation times gradient of the answer's log-probability, summed over positions, in nats",
    batch_size=16,
    answers=True,
)
WANDA = Quantity(
    "wanda", _wanda, "weight size times root mean square of its input, summed over a unit's weights"
)
SNIP = Quantity(
    "snip",
    _snip,
    "size of weight times gradient of the answer's negative log-probability, summed over a"
    " unit's weights, in nats",
    batch_size=16,
    answers=True,
)

"""What switching one neuron off does to the model: exactly, neuron by neuron.

Source: SS-Neurons (arXiv 2602.01283): importance of N is the mean over x of
`‖LLM(x) - LLM without N(x)‖₂`. Which representation is compared is in no public source; here it
is the last hidden state by default, at the positions that the example is read at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from precise_shield.core.errors import ConfigError
from precise_shield.core.sites import Site
from precise_shield.identify.collect import Batch, Emit, Position, Quantity
from precise_shield.models.bind import BoundModel
from precise_shield.models.decoder import Chain, traced
from precise_shield.models.decoder import blocks as decoder_blocks
from precise_shield.models.head import head
from precise_shield.models.taps import tapped

CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 65536
"""Tokens that run through the upper blocks at once: neurons x positions."""

Shown = Callable[[BoundModel, Chain, int, Tensor], Tensor]
"""`(model, chain, step, hidden) -> representation` of hidden states that left that step."""


def _final(_: BoundModel, chain: Chain, start: int, hidden: Tensor) -> Tensor:
    return chain.after(start, hidden)


def _residual(_: BoundModel, chain: Chain, start: int, hidden: Tensor) -> Tensor:
    return chain.after(start, hidden, stop=-1)


def _logits(bound: BoundModel, chain: Chain, start: int, hidden: Tensor) -> Tensor:
    return head(bound, chain.after(start, hidden))


@dataclass(frozen=True)
class Muted:
    """One example with the neurons of one site switched off, one a row."""

    bound: BoundModel
    chain: Chain
    site: Site
    step: int
    acts: Float[Tensor, "1 pos width"]

    def left(self, units: Tensor) -> Float[Tensor, "units pos hidden"]:
        """What leaves the block: the block itself runs again, with the neurons set to zero."""
        rows = torch.arange(len(units), device=units.device)

        def fn(_: Site, acts: Tensor) -> Tensor:
            edited = acts.clone()
            edited[rows, :, units] = 0
            return edited

        step = self.chain.steps[self.step]
        with tapped(self.bound.only([self.site]), fn):
            return step.again(step.entered.expand(len(units), -1, -1))

    def subtracted(self, units: Tensor, written: Tensor) -> Float[Tensor, "units pos hidden"]:
        """The same where a block adds what its neurons write to its output as it is."""
        share = self.acts[0][:, units].T[:, :, None] * written[units][:, None, :]
        return self.chain.steps[self.step].left - share


def deactivate(
    bound: BoundModel, batch: Batch, emit: Emit, shown: Shown = _final, tokens: int | None = None
) -> None:
    """Switch off every unit at all tokens, one after the other, and see what it changes.

    Only the blocks above the unit run again, from the hidden state that the example left there,
    for many units at once. Equal to one full forward pass a unit, up to rounding.

    Raises:
        ConfigError: a site is not in the language model.
        ValueError: the batch has more than one example.
    """
    if len(batch.cells) != 1:
        raise ValueError("units are switched off in one example at a time")
    strange = [site for site in bound.sites if site.tower != "text"]
    if strange:
        raise ConfigError(
            f"exact deactivation is for the language model's units, not for {strange[0]}."
        )
    room = CPU_TOKENS if bound.device.type == "cpu" else ACCELERATOR_TOKENS
    weights = {at: row[0].to(bound.device) for at, row in batch.weights().items()}
    with torch.no_grad():
        seen: dict[Site, Tensor] = {}

        def keep(site: Site, acts: Tensor) -> None:
            seen[site] = acts

        with tapped(bound, keep):
            chain = traced(bound, batch.inputs)
        final = len(chain.steps) - 1 if shown is not _residual else len(chain.steps) - 2
        base = chain.steps[final].left
        if shown is _logits:
            base = head(bound, base)
        layers = decoder_blocks(bound)
        for site, acts in seen.items():
            muted = Muted(bound, chain, site, chain.index(layers[site.layer]), acts)
            rows = _site_rows(muted, base, weights, partial(shown, bound, chain), tokens or room)
            for position, row in rows.items():
                emit(site, position, row[None])


def _site_rows(
    muted: Muted,
    base: Float[Tensor, "1 pos width"],
    weights: Mapping[Position, Float[Tensor, " pos"]],
    shown: Callable[[int, Tensor], Tensor],
    tokens: int,
) -> dict[Position, Float[Tensor, " units"]]:
    """Per position, the mean over its tokens of the distance, for every unit of the site."""
    width = muted.bound.sites[muted.site].width
    table = torch.stack(list(weights.values()))  # [positions, pos]
    used = table.any(0)
    out = []
    for left in _variants(muted, width, max(1, tokens // base.shape[1])):
        away = (shown(muted.step, left)[:, used] - base[:, used]).float()
        out.append(torch.linalg.vector_norm(away, dim=-1) @ table[:, used].T)
    return dict(zip(weights, torch.cat(out).T, strict=True))


def _variants(muted: Muted, width: int, size: int) -> Iterator[Float[Tensor, "units pos hidden"]]:
    """What leaves the block without each unit, some units at a time."""
    written = _added(muted)
    for units in torch.split(torch.arange(width, device=muted.acts.device), size):
        yield muted.left(units) if written is None else muted.subtracted(units, written)


def _added(muted: Muted) -> Float[Tensor, "width hidden"] | None:
    """What each unit adds to its block's output, if a trial with the strongest confirms it.

    Families that normalise a block's output, and units of attention, whose output the
    feed-forward part reads, fail the trial: their block runs again instead.
    """
    spot = muted.bound.sites[muted.site]
    writing = [own for own in spot.owned if own.module is spot.reader]
    if len(writing) != 1:
        return None
    weight = writing[0].weight.detach()
    written = weight if writing[0].dim == 0 else weight.T
    hidden = muted.chain.steps[muted.step].left
    if written.shape != (spot.width, hidden.shape[-1]) or muted.acts.shape[-1] != spot.width:
        return None
    strength = muted.acts[0].float().abs().amax(0) * written.float().norm(dim=1)
    one = strength.argmax()[None]
    exact, quick = muted.left(one), muted.subtracted(one, written)
    step = torch.finfo(hidden.dtype).eps
    close = torch.allclose(exact, quick, rtol=0, atol=16 * step * float(hidden.abs().max()))
    return written if close else None


def _deactivation(name: str, shown: Shown, what: str) -> Quantity:
    return Quantity(
        name,
        partial(deactivate, shown=shown),
        f"distance of {what} with and without the unit, mean over the example's positions",
        batch_size=1,
    )


FINAL_HIDDEN = _deactivation("deactivation", _final, "the last hidden states, after the final norm")
RESIDUAL = _deactivation("deactivation_residual", _residual, "the last block's outputs")
LOGITS = _deactivation("deactivation_logits", _logits, "the logits")

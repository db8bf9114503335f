"""What switching one neuron off does to the model: exactly, neuron by neuron.

Source: SS-Neurons (arXiv 2602.01283): importance of N is the mean over x of
`‖LLM(x) - LLM without N(x)‖₂`. Which representation is compared is in no public source; here it
is the last hidden state by default, at the positions that the example is read at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from precise_shield.core.errors import ConfigError
from precise_shield.core.sites import Site
from precise_shield.identify.collect import Batch, Emit, Quantity
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.holding.held import whole
from precise_shield.models.passes.decoder import Chain, blocks, traced
from precise_shield.models.passes.taps import tapped
from precise_shield.models.readings.head import head

CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 65536
"""Tokens that run through the upper blocks at once: neurons x positions."""

Representation = Literal["final_hidden", "residual", "logits"]
"""What of the model is compared: the last hidden states, the same before the final norm, or the
logits."""


@dataclass(frozen=True)
class Opened:
    """One example that ran once, so that its blocks can run again without single units.

    Shapes: `acts[site]` is `[1, pos, width]`; `base` is `[1, pos, features]`, the representation of
        the model as it is; `weights` is `[positions, pos]`, rows summing to 1.
    """

    bound: BoundModel
    chain: Chain
    acts: Mapping[Site, Tensor]
    compared: Representation
    base: Float[Tensor, "1 pos features"]
    weights: Float[Tensor, "positions pos"]
    tokens: int

    @classmethod
    def of(
        cls,
        bound: BoundModel,
        batch: Batch,
        compared: Representation = "final_hidden",
        tokens: int | None = None,
    ) -> Opened:
        """Run a batch of one example; `tokens` is how many run at once later, units x positions.

        Raises:
            LayoutMismatchError: the family's blocks cannot be run again one by one.
        """
        seen: dict[Site, Tensor] = {}

        def keep(site: Site, acts: Tensor) -> None:
            seen[site] = acts

        with tapped(bound, keep):
            chain = traced(bound, batch.inputs)
        base = chain.steps[-2 if compared == "residual" else -1].left
        if compared == "logits":
            base = head(bound, base)
        weights = torch.stack([row[0].to(base.device) for row in batch.weights().values()])
        room = CPU_TOKENS if bound.device.type == "cpu" else ACCELERATOR_TOKENS
        return cls(bound, chain, seen, compared, base, weights, tokens or room)

    def distances(
        self, site: Site, units: Int[Tensor, " units"]
    ) -> Float[Tensor, "positions units"]:
        """How far the representation moves when a unit is off at all tokens, unit by unit.

        L2 norm at each token, then the mean over the tokens of each position; float32.
        """
        step, written = self._step(site), self._added(site)
        used = self.weights.any(0)
        out = []
        for part in torch.split(units, max(1, self.tokens // self.base.shape[1])):
            if written is None:
                left = self._left(site, step, part)
            else:
                left = self._subtracted(site, step, part, written)
            away = (self._shown(step, left, used) - self.base[:, used]).float()
            out.append(self.weights[:, used] @ torch.linalg.vector_norm(away, dim=-1).T)
        return torch.cat(out, dim=1)

    def _step(self, site: Site) -> int:
        return self.chain.index(blocks(self.bound)[site.layer])

    def _shown(self, step: int, left: Tensor, used: Bool[Tensor, " pos"]) -> Tensor:
        """The representation, at some positions, of hidden states that left a block."""
        hidden = self.chain.after(step, left, stop=-1)[:, used]
        if self.compared == "residual":
            return hidden
        hidden = self.chain.steps[-1].again(hidden)
        return head(self.bound, hidden) if self.compared == "logits" else hidden

    def _left(self, site: Site, step: int, units: Tensor) -> Float[Tensor, "units pos hidden"]:
        """What leaves the block without each unit: it runs again, with the unit set to zero."""
        rows = torch.arange(len(units), device=units.device)

        def fn(_: Site, acts: Tensor) -> Tensor:
            edited = acts.clone()
            edited[rows, :, units] = 0
            return edited

        entered = self.chain.steps[step].entered.expand(len(units), -1, -1)
        with tapped(self.bound.only([site]), fn):
            return self.chain.steps[step].again(entered)

    def _subtracted(
        self, site: Site, step: int, units: Tensor, written: Float[Tensor, "width hidden"]
    ) -> Float[Tensor, "units pos hidden"]:
        """The same where a block adds what its units write to its output as it is."""
        share = self.acts[site][0][:, units].T[:, :, None] * written[units][:, None, :]
        return self.chain.steps[step].left - share

    def _added(self, site: Site) -> Float[Tensor, "width hidden"] | None:
        """What each unit adds to its block's output, if a trial with the strongest confirms it.

        Families that normalise a block's output, and units of attention, whose output the
        feed-forward part reads, fail the trial: their block runs again instead.
        """
        spot, step = self.bound.sites[site], self._step(site)
        writing = [own for own in spot.owned if own.module is spot.reader]
        if len(writing) != 1:
            return None
        weight, acts = whole(writing[0].weight).detach(), self.acts[site]
        written = weight if writing[0].dim == 0 else weight.T
        hidden = self.chain.steps[step].left
        if written.shape != (acts.shape[-1], hidden.shape[-1]):
            return None
        strength = acts[0].float().abs().amax(0) * written.float().norm(dim=1)
        one = strength.argmax()[None]
        exact = self._left(site, step, one)
        quick = self._subtracted(site, step, one, written)
        close = 16 * torch.finfo(hidden.dtype).eps * float(hidden.abs().max())
        return written if torch.allclose(exact, quick, rtol=0, atol=close) else None


def deactivate(
    bound: BoundModel,
    batch: Batch,
    emit: Emit,
    compared: Representation = "final_hidden",
    tokens: int | None = None,
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
    with torch.no_grad():
        opened = Opened.of(bound, batch, compared, tokens)
        for site, spot in bound.sites.items():
            every = torch.arange(spot.width, device=bound.device)
            for at, row in zip(batch.masks, opened.distances(site, every), strict=True):
                emit(site, at, row[None])


def _deactivation(name: str, compared: Representation, what: str) -> Quantity:
    return Quantity(
        name,
        partial(deactivate, compared=compared),
        f"distance of {what} with and without the unit, mean over the example's positions",
        batch_size=1,
    )


FINAL_HIDDEN = _deactivation(
    "deactivation", "final_hidden", "the last hidden states, after the final norm"
)
RESIDUAL = _deactivation("deactivation_residual", "residual", "the last block's outputs")
LOGITS = _deactivation("deactivation_logits", "logits", "the logits")

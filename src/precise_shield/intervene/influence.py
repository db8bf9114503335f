"""What suppressing one layer's neurons does to the chosen neurons above it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from precise_shield.core.errors import EmptySetError
from precise_shield.core.sites import NeuronSet, Site
from precise_shield.intervene.edits import intervening, suppress
from precise_shield.models.architecture.bind import BoundModel
from precise_shield.models.holding.held import without_gradients
from precise_shield.models.passes.taps import tapped


@dataclass(frozen=True)
class Pass:
    """One batch that can be run as often as needed."""

    run: Callable[[], object]
    """Runs the backbone."""

    place: Int[Tensor, " batch"]
    """Position that is read in each row."""


@dataclass
class Influence:
    """Layer by layer, how suppression below changes chosen neurons above.

    Shapes: `[layers, layers]`, float64, row the suppressed layer, column the one that is read;
        NaN on and below the diagonal.
    """

    layers: list[int]
    base: Float[Tensor, " layers"] = field(init=False)
    """Sum over rows and neurons of |activation| with nothing suppressed."""
    left: Float[Tensor, "layers layers"] = field(init=False)
    """The same sum when a layer below is suppressed."""
    apart: Float[Tensor, "layers layers"] = field(init=False)
    """Sum of |activation suppressed - activation untouched|."""

    def __post_init__(self) -> None:
        n = len(self.layers)
        self.base = torch.zeros(n, dtype=torch.float64)
        self.left, self.apart = (torch.zeros(n, n, dtype=torch.float64) for _ in range(2))

    @property
    def change(self) -> Float[Tensor, "layers layers"]:
        """Relative change of mean |activation|: -1 silences, 0 leaves as it was."""
        return self._above(self.left / self.base - 1)

    @property
    def moved(self) -> Float[Tensor, "layers layers"]:
        """Mean |change of activation| relative to mean |activation|: what `change` may cancel."""
        return self._above(self.apart / self.base)

    def _above(self, values: Tensor) -> Tensor:
        upper = torch.ones_like(values, dtype=torch.bool).triu(1)
        return values.masked_fill(~upper | ~values.isfinite(), torch.nan)


def by_layer(neurons: NeuronSet) -> dict[int, NeuronSet]:
    """The language model's neurons, one set a layer, all kinds of units together."""
    layers: dict[int, dict[Site, Iterable[int]]] = {}
    for site, ids in neurons.units.items():
        if site.tower == "text":
            layers.setdefault(site.layer, {})[site] = ids
    return {layer: NeuronSet.of(units) for layer, units in sorted(layers.items())}


def influence(
    bound: BoundModel,
    neurons: NeuronSet,
    controls: Sequence[NeuronSet],
    passes: Iterable[Pass],
    on_pass: Callable[[int], None] | None = None,
) -> tuple[Influence, list[Influence]]:
    """Suppress `neurons` layer by layer and read those of the layers above, beside controls.

    Each control is suppressed layer by layer in the same way, and the same `neurons` are read, so
    that the two differ only in what was silenced. Memory is one batch's activations of `neurons`.

    Returns:
        The matrices of `neurons`, and those of each control.

    Raises:
        EmptySetError: fewer than two layers of the language model hold neurons.

    Source: asked for as future work by Precise Shield (arXiv 2604.08881), section 6.
    """
    own = by_layer(neurons)
    if len(own) < 2:
        raise EmptySetError(
            f"neurons lie in {len(own)} layer of the language model; influence needs two. Raise"
            " identify.p, choose another set or set explain.influence.on to false."
        )
    layers = list(own)
    found = [Influence(layers) for _ in range(1 + len(controls))]
    silenced = [own, *[by_layer(control) for control in controls]]
    everything = NeuronSet.union(own.values())
    for each in passes:
        before = _read(bound, everything, each, layers)
        for result, sets in zip(found, silenced, strict=True):
            result.base += torch.stack([acts.abs().sum() for acts in before])
            for row, layer in enumerate(layers[:-1]):
                if layer not in sets:
                    continue
                with intervening(bound, sets[layer], suppress):
                    after = _read(bound, everything, each, layers)
                if on_pass is not None:
                    on_pass(1)
                for column in range(row + 1, len(layers)):
                    result.left[row, column] += after[column].abs().sum()
                    result.apart[row, column] += (after[column] - before[column]).abs().sum()
    return found[0], found[1:]


@without_gradients()
def _read(
    bound: BoundModel, neurons: NeuronSet, each: Pass, layers: Sequence[int]
) -> list[Float[Tensor, "batch k"]]:
    """Activations of the neurons of each layer at the position of each row, float64 on CPU."""
    parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}

    def fn(site: Site, acts: Tensor) -> None:
        rows = torch.arange(len(each.place), device=acts.device)
        here = acts[rows, each.place.to(acts.device)]
        ids = torch.tensor(neurons.units[site], device=acts.device)
        parts[site.layer].append(here[:, ids].to("cpu", torch.float64))

    with tapped(bound.only(neurons.units), fn):
        each.run()
    return [torch.cat(acts, 1) for acts in parts.values()]

"""The one place that knows how architectures differ: a table, one row a family.

To support a model family, add a `register` call here and a tiny config to
`tests/tiny.py`. Nothing else in the package may mention a module path or a
`model_type`; `tests/test_layering.py` fails when it does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from precise_shield.core.errors import UnsupportedModelError
from precise_shield.core.sites import Tower


@dataclass(frozen=True)
class Layout:
    """Where one tower keeps its feed-forward neurons.

    A neuron is one entry of the vector that the down-projection reads: for a gated
    block `act(gate(x)) * up(x)`, for a plain one `act(up(x))`. That point exists in
    every family, so taps go there and nowhere else.
    """

    layers: str
    """Dotted path from the model root to the list of blocks."""

    down: str = "mlp.down_proj"
    """Path inside a block to the projection whose *input* is the neurons."""

    gate: str | None = "mlp.gate_proj"
    """Path inside a block to the gating projection; None where the block has no gate."""

    up: str = "mlp.up_proj"
    """Path inside a block to the projection whose *output* makes the neurons."""

    fused: bool = False
    """`up` is a single weight with the gate half stacked over the up half; `gate` is None."""


_LAYOUTS: dict[str, Mapping[Tower, Layout]] = {}


def register(*model_types: str, **towers: Layout) -> None:
    """Add a row. A `model_type` may be registered once: a silent overwrite hides a bug."""
    for model_type in model_types:
        if model_type in _LAYOUTS:
            raise ValueError(f"layout for model_type {model_type!r} is already registered")
        _LAYOUTS[model_type] = towers  # type: ignore[assignment]


def known_model_types() -> tuple[str, ...]:
    """Every `model_type` in the table, sorted."""
    return tuple(sorted(_LAYOUTS))


def layouts_for(model_type: str) -> Mapping[Tower, Layout]:
    """Look a row up. There is no default: a guessed layout gives wrong neurons quietly.

    Raises:
        UnsupportedModelError: nothing is registered under `model_type`.
    """
    if model_type in _LAYOUTS:
        return _LAYOUTS[model_type]
    near = difflib.get_close_matches(model_type, _LAYOUTS, n=2)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise UnsupportedModelError(
        f"no layout for model_type {model_type!r}.{hint} Known: {', '.join(known_model_types())}."
        f" To add one, see {__name__} and CONTRIBUTING.md."
    )


_DECODER = Layout("model.layers")
_NESTED = Layout("model.language_model.layers")
_CLIP = Layout("model.vision_tower.encoder.layers", down="mlp.fc2", gate=None, up="mlp.fc1")

register("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", text=_DECODER)
register("phi3", text=Layout("model.layers", gate=None, up="mlp.gate_up_proj", fused=True))
register("gpt2", text=Layout("transformer.h", down="mlp.c_proj", gate=None, up="mlp.c_fc"))
register("llava", text=_NESTED, vision=_CLIP)

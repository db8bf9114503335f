"""The one place that knows how architectures differ: a table, one row a family.

To support a model family, add a `register` call here and a tiny config to
`tests/tiny.py`. Nothing else in the package may mention a module path or a
`model_type`; `tests/test_layering.py` fails when it does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

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

    having: str | None = None
    """Blocks without this child are passed over. Mllama's cross-attention blocks do not run
    for a prompt without a picture, so their neurons cannot be compared across prompts."""

    norm: str = "norm"
    """Name of the norm after the last block, beside the list of blocks; of the text tower only."""

    @property
    def final_norm(self) -> str:
        """Dotted path from the model root to the norm after the last block."""
        parent, _, _ = self.layers.rpartition(".")
        return f"{parent}.{self.norm}"


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


def _plain(layers: str, down: str = "mlp.fc2", up: str = "mlp.fc1") -> Layout:
    return Layout(layers, down=down, gate=None, up=up)


register("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", text=_DECODER)
register("phi3", text=Layout("model.layers", gate=None, up="mlp.gate_up_proj", fused=True))
register("gpt2", text=replace(_plain("transformer.h", "mlp.c_proj", "mlp.c_fc"), norm="ln_f"))
register(
    *("llava", "llava_next", "llava_onevision", "gemma3", "paligemma"),
    text=_NESTED,
    vision=_plain("model.vision_tower.encoder.layers"),
)
register("internvl", text=_NESTED, vision=_plain("model.vision_tower.encoder.layer"))
register("qwen2_vl", text=_NESTED, vision=_plain("model.visual.blocks"))
register("qwen2_5_vl", text=_NESTED, vision=Layout("model.visual.blocks"))
register(
    "qwen3_vl",
    text=_NESTED,
    vision=_plain("model.visual.blocks", "mlp.linear_fc2", "mlp.linear_fc1"),
)
register(
    *("idefics3", "smolvlm"),
    text=Layout("model.text_model.layers"),
    vision=_plain("model.vision_model.encoder.layers"),
)
register(
    "mllama",
    text=Layout("model.language_model.layers", having="self_attn"),
    vision=_plain("model.vision_model.transformer.layers"),
)

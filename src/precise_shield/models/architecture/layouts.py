"""The one place that knows how architectures differ: a table, one row a family.

To support a model family, add a `register` call here and a tiny config to
`tests/tiny.py`. Nothing else in the package may mention a module path or a
`model_type`; `tests/test_layering.py` fails when it does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from precise_shield.core.errors import UnsupportedModelError
from precise_shield.core.sites import Tower

GATE_UP, DOWN = "gate_up_proj", "down_proj"
"""The parameters of a stack of experts, named by the library's experts interface:
`[experts, 2 width, hidden]` and `[experts, hidden, width]`."""


PictureRows = Literal["each", "packed", "tiles"]
"""A batch of pictures in a vision tower. `each`: one row a picture. `packed`: all patches in one
row, and the model is told how many each picture has. `tiles`: several rows a picture."""


@dataclass(frozen=True)
class FeedForward:
    """Where a block keeps its feed-forward neurons.

    A neuron is one entry of the vector that the down-projection reads: for a gated
    block `act(gate(x)) * up(x)`, for a plain one `act(up(x))`. That point exists in
    every family, so taps go there and nowhere else.
    """

    down: str = "mlp.down_proj"
    """Path inside a block to the projection whose *input* is the neurons."""

    gate: str | None = "mlp.gate_proj"
    """Path inside a block to the gating projection; None where the block has no gate."""

    up: str = "mlp.up_proj"
    """Path inside a block to the projection whose *output* makes the neurons."""

    fused: bool = False
    """`up` is a single weight with the gate half stacked over the up half; `gate` is None."""


@dataclass(frozen=True)
class Attention:
    """Where a block keeps its attention units: outputs of q, k and v, and the input of o."""

    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    out: str = "self_attn.o_proj"

    fused: bool = False
    """`query`, `key` and `value` are one projection: all of q, then all of k, then all of v."""


@dataclass(frozen=True)
class Experts:
    """Where a mixture-of-experts block keeps its routed experts: one module, stacked weights."""

    stack: str = "mlp.experts"
    """Path inside a block to the module that holds all experts' weights, `GATE_UP` and `DOWN`."""

    transposed: bool = False
    """They are `[experts, hidden, 2 width]` and `[experts, width, hidden]`, not the reverse."""

    interleaved: bool = False
    """Gate and up alternate (gate 0, up 0, gate 1, ...) instead of lying one after the other."""

    shared: FeedForward | None = None
    """An expert that every token passes; its neurons are the block's `ffn` units."""


@dataclass(frozen=True)
class Layout:
    """Where one tower keeps its units, kind by kind."""

    layers: str
    """Dotted path from the model root to the list of blocks."""

    ffn: FeedForward = FeedForward()

    attention: Attention = Attention()

    experts: Experts | None = None
    """For families with routed experts. A block that has no such stack is a dense one."""

    having: str | None = None
    """Blocks without this child are passed over. Mllama's cross-attention blocks do not run
    for a prompt without a picture, so their neurons cannot be compared across prompts."""

    pictures: PictureRows | None = None
    """How a vision tower lays out a batch; None where padding is mixed into a picture's rows."""

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


def _plain(down: str = "mlp.fc2", up: str = "mlp.fc1") -> FeedForward:
    return FeedForward(down=down, gate=None, up=up)


def _packed(qkv: str, out: str) -> Attention:
    return Attention(query=qkv, key=qkv, value=qkv, out=out, fused=True)


_CLIP = Attention(out="self_attn.out_proj")
_VISUAL = _packed("attn.qkv", "attn.proj")
_SHARED = FeedForward(
    "mlp.shared_expert.down_proj", "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"
)

_DECODER = Layout("model.layers")
_NESTED = Layout("model.language_model.layers")

register("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", text=_DECODER)
register("mixtral", "qwen3_moe", text=Layout("model.layers", experts=Experts()))
register("qwen2_moe", text=Layout("model.layers", experts=Experts(shared=_SHARED)))
register(
    "gpt_oss",
    text=Layout("model.layers", experts=Experts(transposed=True, interleaved=True)),
)
register(
    "phi3",
    text=Layout(
        "model.layers",
        ffn=FeedForward(gate=None, up="mlp.gate_up_proj", fused=True),
        attention=_packed("self_attn.qkv_proj", "self_attn.o_proj"),
    ),
)
register(
    "gpt2",
    text=Layout(
        "transformer.h",
        ffn=_plain("mlp.c_proj", "mlp.c_fc"),
        attention=_packed("attn.c_attn", "attn.c_proj"),
        norm="ln_f",
    ),
)
_TOWER = Layout("model.vision_tower.encoder.layers", ffn=_plain(), attention=_CLIP, pictures="each")
register("llava", "gemma3", "paligemma", text=_NESTED, vision=_TOWER)
register(*("llava_next", "llava_onevision"), text=_NESTED, vision=replace(_TOWER, pictures="tiles"))
register(
    "internvl",
    text=_NESTED,
    vision=Layout(
        "model.vision_tower.encoder.layer",
        ffn=_plain(),
        attention=Attention(
            query="attention.q_proj",
            key="attention.k_proj",
            value="attention.v_proj",
            out="attention.projection_layer",
        ),
        pictures="tiles",
    ),
)
register(
    "qwen2_vl",
    text=_NESTED,
    vision=Layout("model.visual.blocks", ffn=_plain(), attention=_VISUAL, pictures="packed"),
)
register(
    "qwen2_5_vl",
    text=_NESTED,
    vision=Layout("model.visual.blocks", attention=_VISUAL, pictures="packed"),
)
register(
    "qwen3_vl",
    text=_NESTED,
    vision=Layout(
        "model.visual.blocks",
        ffn=_plain("mlp.linear_fc2", "mlp.linear_fc1"),
        attention=_VISUAL,
        pictures="packed",
    ),
)
register(
    *("idefics3", "smolvlm"),
    text=Layout("model.text_model.layers"),
    vision=Layout(
        "model.vision_model.encoder.layers", ffn=_plain(), attention=_CLIP, pictures="tiles"
    ),
)
register(
    "mllama",
    text=Layout("model.language_model.layers", having="self_attn"),
    vision=Layout("model.vision_model.transformer.layers", ffn=_plain()),
)

"""Weights of 4 and 8 bits: what they stand for, and changed rows that are held beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal
from weakref import ref

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from precise_shield.core.errors import LoadingError, UnsupportedModelError

Bits = Literal["4bit", "8bit"]


class Packed:
    """A weight of few bits, seen as the matrix it stands for; its storage is never written.

    A changed row is held beside, in the model's own type, and what it adds to the projection's
    output is added there.
    """

    def __init__(
        self, kind: Bits, shape: tuple[int, int], dtype: torch.dtype, unpack: Callable[[], Tensor]
    ) -> None:
        self.kind, self.shape, self.dtype = kind, shape, dtype
        self._unpack = unpack
        self._dim = 0
        self._held: dict[int, Tensor] = {}
        self._index: Tensor | None = None
        self._step: Tensor | None = None

    def base(self) -> Float[Tensor, "outputs inputs"]:
        """What the storage alone stands for, in the model's type."""
        return self._unpack().to(self.dtype)

    def values(self) -> Float[Tensor, "outputs inputs"]:
        """A copy of the weight as it is: base values, and the rows held beside."""
        found = self.base()
        if self._held:
            rows = torch.stack(list(self._held.values()))
            _lines(found, self._dim)[list(self._held)] = rows
        return found

    def write(self, dim: int, index: list[int], values: Float[Tensor, "units fan"]) -> None:
        """Hold rows (`dim` 0) or columns (1) beside; base values put back are held no longer.

        Raises:
            UnsupportedModelError: columns beside rows of the same weight.
        """
        if self._held and dim != self._dim:
            raise UnsupportedModelError(
                "rows and columns of one quantised weight would be changed together, which is not"
                " supported; set model.quantise: none."
            )
        base = _lines(self.base(), dim)
        self._dim = dim
        for place, row in zip(index, values.to(base), strict=True):
            if torch.equal(row, base[place]):
                self._held.pop(place, None)
            else:
                self._held[place] = row.detach().clone()
        self._index = self._step = None
        if self._held:
            places = list(self._held)
            self._index = torch.tensor(places, device=base.device)
            rows = torch.stack(list(self._held.values()))
            self._step = rows.float() - base[places].float()

    def path(self, x: Tensor, y: Tensor) -> Tensor:
        """The projection's output with what the changed rows add to it."""
        if self._step is None or self._index is None:
            return y
        step = self._step.to(x.dtype)
        if self._dim == 0:
            return y.index_add(-1, self._index, F.linear(x, step).to(y.dtype))
        return y + (x.index_select(-1, self._index) @ step).to(y.dtype)


def _lines(weight: Tensor, dim: int) -> Tensor:
    return weight if dim == 0 else weight.T


_KNOWN: Any = WeakIdKeyDictionary()
"""From a packed parameter to its `Packed`, for as long as the parameter lives."""


def packed(weight: Tensor) -> Packed | None:
    """What a quantised weight stands for; None for a plain one."""
    found: Packed | None = _KNOWN.get(weight)
    return found


def hold(module: nn.Linear, kind: Bits, dtype: torch.dtype, unpack: Callable[[], Tensor]) -> Packed:
    """Know the weight of `module` as one of few bits that `unpack` gives the values of."""
    found = Packed(kind, (module.out_features, module.in_features), dtype, unpack)
    _KNOWN[module.weight] = found
    return found


def bits_of(model: nn.Module) -> Bits | None:
    """In which bits its projections are held; None where it is not quantised."""
    every = (packed(weight) for weight in model.parameters())
    return next((few.kind for few in every if few is not None), None)


def seen(weight: Tensor) -> Tensor:
    """Stands in for a weight where its shape, type and device are asked for; no values."""
    found = packed(weight)
    if found is None:
        return weight
    return torch.empty((), dtype=found.dtype, device=weight.device).expand(found.shape)


def count(model: nn.Module) -> int:
    """How many weights a model has, however they are stored."""
    return sum(seen(weight).numel() for weight in model.parameters())


def check_packing(spread: bool, gguf: bool) -> None:
    """Refuse a quantised base where it cannot work.

    Raises:
        LoadingError: bitsandbytes or accelerate is not there, or the model is to be spread, or
            comes from a GGUF file.
    """
    missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
    if missing:
        raise LoadingError(
            f"model.quantise needs {' and '.join(missing)}: pip install"
            ' "precise-shield[quantised]", or set model.quantise: none.'
        )
    if spread:
        raise LoadingError(
            "model.quantise holds the whole model on one device; it does not go with model.shard"
            " or model.device_map. Leave those out, or set model.quantise: none."
        )
    if gguf:
        raise LoadingError(
            "a GGUF file is quantised in its own way and is loaded dequantised; set"
            " model.quantise: none, or give the checkpoint that the file was made of."
        )


def check_stored(config: PreTrainedConfig, kind: Bits | None) -> None:
    """Refuse a checkpoint that is stored quantised, unless in the bits that were asked for.

    Raises:
        LoadingError: bitsandbytes made it, and `model.quantise` says otherwise.
    """
    stored: Any = config.to_dict().get("quantization_config") or {}
    if stored.get("quant_method") != "bitsandbytes":
        return
    found = "4bit" if stored.get("load_in_4bit") else "8bit"
    if found != kind:
        raise LoadingError(
            f"this checkpoint is stored in {found} by bitsandbytes; set model.quantise: {found}, or"
            " give the unquantised checkpoint."
        )


def packing(kind: Bits, config: PreTrainedConfig, device: torch.device) -> dict[str, Any]:
    """Arguments with which the library quantises while it loads: NF4, or LLM.int8().

    Source: Dettmers et al. (2023), "QLoRA"; Dettmers et al. (2022), "LLM.int8()".
    """
    where: dict[str, Any] = {"device_map": {"": device}}
    if "quantization_config" in config.to_dict():
        return where
    made: Any = BitsAndBytesConfig
    if kind == "8bit":
        return where | {"quantization_config": made(load_in_8bit=True)}
    return where | {"quantization_config": made(load_in_4bit=True, bnb_4bit_quant_type="nf4")}


def adopt(model: PreTrainedModel) -> dict[nn.Module, Packed]:
    """Know every quantised weight of a model that bitsandbytes loaded.

    The faster layout for CPUs is switched off, for it rewrites the storage in a first pass.
    Products of 4-bit weights are taken in the model's own type; those of 8-bit weights in float16,
    which the library says at every call and this silences.
    """
    library: Any = import_module("bitsandbytes")

    def four(module: Any) -> Callable[[], Tensor]:
        def unpack() -> Tensor:
            weight = module().weight
            found: Tensor = library.functional.dequantize_4bit(weight.data, weight.quant_state)
            return found

        return unpack

    def eight(module: Any) -> Callable[[], Tensor]:
        def unpack() -> Tensor:
            own = module()
            scale = own.state.SCB if own.weight.SCB is None else own.weight.SCB
            found: Tensor = library.functional.int8_vectorwise_dequant(own.weight.data, scale)
            return found

        return unpack

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    found: dict[nn.Module, Packed] = {}
    dtype = model.dtype
    for module in model.modules():
        if isinstance(module, library.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype, module.compute_type_is_set = dtype, True
            found[module] = hold(module, "4bit", dtype, four(ref(module)))
        elif isinstance(module, library.nn.Linear8bitLt):
            found[module] = hold(module, "8bit", dtype, eight(ref(module)))
    return found

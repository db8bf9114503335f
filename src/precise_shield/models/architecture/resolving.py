"""One block of a model, read by its row of the table: paths become modules, claims are checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from precise_shield.core.errors import LayoutMismatchError
from precise_shield.core.sites import Site, Tower, UnitKind
from precise_shield.models.architecture.layouts import DOWN, GATE_UP, Experts, FeedForward, Layout
from precise_shield.models.architecture.units import BoundSite, OwnedWeight, Role, Writing

ROWS: tuple[UnitKind, ...] = ("query", "key", "value")
"""Kinds whose units are outputs of a projection."""

_BIAS: dict[UnitKind, Role] = {"query": "query_bias", "key": "key_bias", "value": "value_bias"}
_FIX = "Fix the row in precise_shield.models.architecture.layouts."


def resolve(root: nn.Module, path: str, tower: Tower) -> nn.Module:
    """Follow a dotted path, or say which row of the table is wrong.

    Raises:
        LayoutMismatchError: some part of the path does not exist.
    """
    try:
        return root.get_submodule(path)
    except AttributeError as error:
        raise LayoutMismatchError(
            f"{tower} tower: {type(root).__name__} has no {path!r} ({error}). {_FIX}"
        ) from error


@dataclass(frozen=True)
class Block:
    """One block and the row of the table that describes it."""

    module: nn.Module
    layout: Layout
    tower: Tower
    index: int
    names: Mapping[int, str]
    """Names of the model's parameters by identity."""

    def kinds(self) -> list[UnitKind]:
        """Kinds of units in this block."""
        ffn: list[UnitKind] = ["ffn"] if self._ffn() is not None else []
        experts: list[UnitKind] = ["expert"] if self._experts() is not None else []
        return [*ffn, *experts, *ROWS, "attention"]

    def sites(self, kind: UnitKind) -> dict[Site, BoundSite]:
        """The block's sites of one kind; none where it has no such units."""
        here = Site(self.tower, self.index, kind) if kind != "expert" else None
        if here is None:
            stack = self._experts()
            return {} if stack is None else self._expert_sites(stack)
        if kind == "ffn":
            paths = self._ffn()
            return {} if paths is None else {here: self._ffn_site(paths)}
        return {here: self._out_site() if kind == "attention" else self._row_site(kind)}

    def _experts(self) -> Experts | None:
        experts = self.layout.experts
        if experts is None:
            return None
        parent, _, last = experts.stack.rpartition(".")
        return experts if last in dict(self._at(parent).named_children()) else None

    def _ffn(self) -> FeedForward | None:
        experts = self._experts()
        return self.layout.ffn if experts is None else experts.shared

    def _at(self, path: str) -> nn.Module:
        return resolve(self.module, path, self.tower)

    def _mismatch(self, what: str) -> LayoutMismatchError:
        return LayoutMismatchError(f"{self.tower} tower: {what} {_FIX}")

    def _own(
        self, module: nn.Module, role: Role, dim: int, offset: int = 0, parameter: str = "weight"
    ) -> OwnedWeight:
        name = self.names[id(module.get_parameter(parameter))]
        return OwnedWeight(module, name, role, dim, offset, parameter=parameter)

    def _ffn_site(self, ffn: FeedForward) -> BoundSite:
        down = self._at(ffn.down)
        width = _size(down, _in_dim(down))
        writing = self._own(down, "down", _in_dim(down))
        owned = [writing]
        ups: list[tuple[Role, str]] = [("up", ffn.up)]
        if ffn.gate is not None:
            ups.insert(0, ("gate", ffn.gate))
        for role, path in ups:
            module = self._at(path)
            made = _size(module, _out_dim(module))
            halves: list[Role] = ["gate", "up"] if ffn.fused else [role]
            if made != len(halves) * width:
                raise self._mismatch(
                    f"{path} makes {made} values but {ffn.down} reads {width};"
                    f" expected {len(halves)} x {width}."
                )
            for part, half in enumerate(halves):
                owned.append(self._own(module, half, _out_dim(module), part * width))
        block = None
        if self.layout.experts is not None and ffn is self.layout.experts.shared:
            block = self._at(self.layout.experts.stack.rpartition(".")[0])
        return BoundSite(down, width, tuple(owned), Writing(writing), block=block)

    def _out_site(self) -> BoundSite:
        out = self._at(self.layout.attention.out)
        own = self._own(out, "out", _in_dim(out))
        return BoundSite(out, _size(out, own.dim), (own,), Writing(own))

    def _row_site(self, kind: UnitKind) -> BoundSite:
        paths = self.layout.attention
        out = self._at(paths.out)
        heads = _size(out, _in_dim(out))
        reader = self._at({"query": paths.query, "key": paths.key, "value": paths.value}[kind])
        made, offset = _size(reader, _out_dim(reader)), 0
        shared = (made - heads) // 2 if paths.fused else made
        width = heads if kind == "query" else shared
        if paths.fused:
            offset = {"query": 0, "key": heads, "value": heads + shared}[kind]
        if shared < 1 or heads % shared or (paths.fused and heads + 2 * shared != made):
            raise self._mismatch(
                f"{kind}: {made} values are made and {paths.out} reads {heads}, which does not"
                " come out even."
            )
        role: Role = kind  # type: ignore[assignment]
        owned = [self._own(reader, role, _out_dim(reader), offset)]
        if dict(reader.named_parameters(recurse=False)).get("bias") is not None:
            owned.append(self._own(reader, _BIAS[kind], 0, offset, "bias"))
        writes = self._value_writing(out, heads // width) if kind == "value" else None
        return BoundSite(reader, width, tuple(owned), writes, point="output", offset=offset)

    def _value_writing(self, out: nn.Module, groups: int) -> Writing:
        own = self._own(out, "out", _in_dim(out))
        if groups == 1:
            return Writing(own)
        parent = self._at(self.layout.attention.out.rpartition(".")[0])
        try:
            head_dim = int(parent.head_dim)  # type: ignore[arg-type]
        except AttributeError:
            raise self._mismatch(
                f"{groups} query heads share a value head, and {type(parent).__name__} has no"
                " head_dim to say how large one is."
            ) from None
        return Writing(own, groups, head_dim)

    def _expert_sites(self, experts: Experts) -> dict[Site, BoundSite]:
        stack = self._at(experts.stack)
        block = self._at(experts.stack.rpartition(".")[0])
        self._check_stack(stack, experts)
        made, down = stack.get_parameter(GATE_UP), stack.get_parameter(DOWN)
        out_dim, in_dim = (2, 1) if experts.transposed else (1, 2)
        width, both = down.shape[in_dim], made.shape[out_dim]
        if both != 2 * width or len(made) != len(down):
            raise self._mismatch(
                f"{experts.stack} makes {both} values an expert but reads {width}; expected"
                f" 2 x {width}."
            )
        stride, second = (2, 1) if experts.interleaved else (1, width)
        found = {}
        for number in range(len(down)):
            start = number * both
            writing = self._own(stack, "down", in_dim, number * width, DOWN)
            halves: list[tuple[Role, int]] = [("gate", start), ("up", start + second)]
            rows = (
                OwnedWeight(stack, self.names[id(made)], role, out_dim, offset, stride, GATE_UP)
                for role, offset in halves
            )
            found[Site(self.tower, self.index, "expert", number)] = BoundSite(
                stack,
                width,
                (writing, *rows),
                Writing(writing),
                point="experts",
                expert=number,
                block=block,
            )
        return found

    def _check_stack(self, stack: nn.Module, experts: Experts) -> None:
        """The library's own marks of a stack of experts must agree with the table."""
        try:
            marks = (bool(stack.is_transposed), bool(stack.is_concatenated), bool(stack.has_gate))
        except AttributeError as error:
            raise self._mismatch(
                f"{experts.stack} is a {type(stack).__name__}, which does not go through the"
                f" library's experts interface ({error})."
            ) from None
        if marks != (experts.transposed, not experts.interleaved, True):
            raise self._mismatch(
                f"{experts.stack} is transposed={marks[0]}, interleaved={not marks[1]},"
                f" gated={marks[2]}; the table says otherwise."
            )


def _size(module: nn.Module, dim: int) -> int:
    """Read off the weight; of one that packs several values in a byte, off its module."""
    weight = module.get_parameter("weight")
    if isinstance(module, nn.Linear) and not weight.is_floating_point():
        return (module.out_features, module.in_features)[dim]
    return int(weight.shape[dim])


def _out_dim(module: nn.Module) -> int:
    return 1 if isinstance(module, Conv1D) else 0


def _in_dim(module: nn.Module) -> int:
    return 1 - _out_dim(module)

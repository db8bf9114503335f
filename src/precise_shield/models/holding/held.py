"""How a model's weights are held: whole, or in shares of several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from precise_shield.core.errors import LoadingError, UnsupportedModelError
from precise_shield.core.parallel import crew
from precise_shield.models.holding.packed import packed


def is_sharded(model: nn.Module) -> bool:
    """Whether processes hold shares of its weights, so that all of them must run it together."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


@contextmanager
def without_gradients() -> Iterator[None]:
    """Nothing inside is recorded for gradients; also a decorator.

    Alone this is inference mode. Among processes that may share a model it is not: blocks that
    were gathered in inference mode cannot be trained beside afterwards.
    """
    shared = distributed.is_available() and distributed.is_initialized()
    with torch.no_grad() if shared else torch.inference_mode():
        yield


def whole(weight: Tensor) -> Tensor:
    """All values of a weight as a plain tensor; every process has to ask for a sharded one.

    Of a quantised weight (the parameter itself, not a view of it): those that it stands for.

    Raises:
        UnsupportedModelError: it lies on disk; see `fetched`.
    """
    if weight.is_meta:
        raise UnsupportedModelError(
            "this needs the values of a weight that model.device_map left on disk or in main"
            " memory; give its layer a device, or choose a score of activations."
        )
    if (found := packed(weight)) is not None:
        return found.values()
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def put_back(weight: Tensor, values: Tensor) -> None:
    """Take this process's share of values that `whole` gave and that were changed since."""
    if isinstance(weight, DTensor):
        mesh, places = weight.device_mesh, weight.placements
        share = distribute_tensor(values, mesh, places, src_data_rank=None)
        weight.to_local().copy_(share.to_local())


def check_sharing() -> None:
    """Refuse to share a model with nobody.

    Raises:
        LoadingError: this process is alone.
    """
    if crew().size == 1:
        raise LoadingError(
            "model.shard: fsdp spreads a model over several processes and there is one; start"
            " with `torchrun --nproc-per-node N -m precise_shield ...`, or set model.shard: none."
        )


def share_blocks(blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Leave each process a share of every block's weights, gathered only while the block runs.

    What is outside the blocks (embeddings, head, vision tower) stays whole in every process.

    Source: PyTorch's FSDP2; Zhao et al. (2023), "PyTorch FSDP: Experiences on Scaling Fully
        Sharded Data Parallel", section 3.
    """
    mesh = init_device_mesh(device.type, (crew().size,))
    with crew().in_turn():
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)


def check_mapping(shard: bool) -> None:
    """Refuse a device map where it cannot work.

    Raises:
        LoadingError: accelerate is not there, or several processes are.
    """
    if find_spec("accelerate") is None:
        raise LoadingError(
            'model.device_map needs accelerate: pip install "precise-shield[scale]", or set it to'
            " null."
        )
    if shard or crew().size > 1:
        raise LoadingError(
            "model.device_map spreads a model over what one process sees, and several were"
            " started; use model.shard: fsdp, or start without torchrun."
        )


def entrance_of(model: PreTrainedModel) -> torch.device:
    """Where the inputs of a mapped model belong.

    Raises:
        LoadingError: the embeddings are offloaded, so that there is no such place.
    """
    table: nn.Module = model.get_input_embeddings()
    weight = table.get_parameter("weight")
    if weight.is_meta:
        raise LoadingError(
            "model.device_map offloads the input embeddings; give them a device (main memory is"
            " one: cpu)."
        )
    return weight.device


def is_offloaded(model: nn.Module) -> bool:
    """Whether weights lie where they are fetched from for each pass."""
    return any(weight.is_meta for weight in model.parameters())


@contextmanager
def fetched(module: nn.Module) -> Iterator[None]:
    """The module's own weights where they can be read, for the length of the block."""
    if not any(weight.is_meta for weight in module.parameters(recurse=False)):
        yield
        return
    from accelerate.utils import align_module_device  # type: ignore[import-untyped]

    with align_module_device(module):
        yield
